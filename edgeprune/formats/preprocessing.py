"""``preprocess.json``: from a decoded photograph to the tensor that each file of a bundle is fed."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from edgeprune.embedded import Quantisation
from edgeprune.manifest import Record
from edgeprune.preprocess import IntegerPreprocess, normalise_pixels, plan_integer_preprocess

if TYPE_CHECKING:
    import numpy as np

RESIZE_RULE = "whole image squashed to the square, antialiased bilinear"

Positive = Annotated[float, Field(gt=0)]
Side = Annotated[int, Field(ge=1, le=8192)]
Count = Annotated[int, Field(ge=1)]
Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Triple = tuple[float, float, float]


class QuantisationRecord(Record):
    """``real = scale * (stored - zero_point)``; see ``embedded.Quantisation``."""

    scale: Positive
    zero_point: Annotated[int, Field(ge=-128, le=127)]


class TensorRecord(Record):
    """A model's input or output.

    Attributes:
        name: in an ONNX file; empty in files whose tensors are found by position.
        shape: of one call with one image.
        dtype: of one element.
        quantisation: what an int8 element stands for; None for float32.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_./:-]{0,100}$")]
    shape: tuple[Count, ...]
    dtype: Literal["float32", "int8"]
    quantisation: QuantisationRecord | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.dtype == "int8") != (self.quantisation is not None):
            raise ValueError(f"{self.dtype} and quantisation = {self.quantisation} do not go together")
        return self


class IntegerRecord(Record):
    """From a uint8 pixel to an int8 element without floating point; see ``preprocess.IntegerPreprocess``."""

    multiplier: tuple[Int32, Int32, Int32]
    offset: tuple[Int32, Int32, Int32]
    shift: Annotated[int, Field(ge=0, le=31)]


class FileInput(Record):
    """What one model file is fed and gives.

    Attributes:
        path: in the bundle.
        input, output: tensors of one call with one image.
        layout: order of the input's axes.
        rotate_180: the image is fed rotated by 180 degrees; golden images are stored upright.
        dynamic_batch: the first axis of both tensors takes any size.
        integer: the arithmetic for an int8 input; None for float32.
        formula: all of it in one line.
    """

    path: str
    input: TensorRecord
    output: TensorRecord
    layout: Literal["NCHW", "NHWC"]
    rotate_180: bool
    dynamic_batch: bool
    integer: IntegerRecord | None
    formula: str

    @property
    def pixels(self) -> str:
        """The input in the words of ``ModelMetadata.layout``: ``NCHW RGB float32``."""
        return f"{self.layout} RGB {self.input.dtype}"


class PreprocessRecord(Record):
    """``preprocess.json``.

    Attributes:
        colour: order of channels.
        resize: how a photograph becomes a square of ``image_size`` pixels.
        scale: factor from uint8 to [0, 1].
        mean, std: one value a channel, in units of [0, 1] pixels.
        files: one entry a model file.
    """

    format: Literal[2] = 2
    colour: Literal["RGB"] = "RGB"
    resize: str = RESIZE_RULE
    image_size: Side
    scale: Positive = 1 / 255
    mean: Triple
    std: tuple[Positive, Positive, Positive]
    files: Annotated[tuple[FileInput, ...], Field(min_length=1)]


def make_file_input(
    path: str,
    *,
    layout: Literal["NCHW", "NHWC"],
    image_size: int,
    classes: int,
    mean: Triple,
    std: Triple,
    input_quantisation: Quantisation | None,
    output_quantisation: Quantisation | None,
    rotate_180: bool,
    dynamic_batch: bool,
) -> FileInput:
    """The entry of ``preprocess.json`` for one file; the integer arithmetic follows from mean, std and quantisation.

    Raises:
        ValueError: there is no integer arithmetic for this quantisation; see ``plan_integer_preprocess``.
    """
    integer = plan_integer_preprocess(mean, std, input_quantisation) if input_quantisation else None
    named = path.endswith(".onnx")
    shape = (1, 3, image_size, image_size) if layout == "NCHW" else (1, image_size, image_size, 3)
    return FileInput(
        path=path,
        input=_tensor("input" if named else "", shape, input_quantisation),
        output=_tensor("logits" if named else "", (1, classes), output_quantisation),
        layout=layout,
        rotate_180=rotate_180,
        dynamic_batch=dynamic_batch,
        integer=IntegerRecord(multiplier=integer.multiplier, offset=integer.offset, shift=integer.shift)
        if integer
        else None,
        formula=_formula(layout, integer=integer is not None, rotate_180=rotate_180),
    )


def feed_images(images: "np.ndarray", file: FileInput, *, mean: Triple, std: Triple) -> "np.ndarray":
    """Exactly what a file is fed for these images, as gates, golden vectors and a replay make it.

    Args:
        images: uint8, shape (n, height, width, 3), resized, upright.
        file: of the model.
        mean, std: one value a channel, in units of [0, 1] pixels.

    Returns:
        Contiguous, of the file's dtype, shape (n, 3, height, width) or (n, height, width, 3).
    """
    import numpy as np

    if file.rotate_180:
        images = images[:, ::-1, ::-1]
    if file.integer is not None:
        rule = file.integer
        whole = IntegerPreprocess(multiplier=rule.multiplier, offset=rule.offset, shift=rule.shift)
        pixels = whole.apply(images)
        return np.ascontiguousarray(pixels if file.layout == "NHWC" else pixels.transpose(0, 3, 1, 2))
    inputs = normalise_pixels(images, mean, std)
    return inputs if file.layout == "NCHW" else np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))


def _tensor(name: str, shape: tuple[int, ...], quantisation: Quantisation | None) -> TensorRecord:
    if quantisation is None:
        return TensorRecord(name=name, shape=shape, dtype="float32")
    record = QuantisationRecord(scale=quantisation.scale, zero_point=quantisation.zero_point)
    return TensorRecord(name=name, shape=shape, dtype="int8", quantisation=record)


def _formula(layout: str, *, integer: bool, rotate_180: bool) -> str:
    to = "input[0, c, y, x]" if layout == "NCHW" else "input[0, y, x, c]"
    pixel = "rgb[image_size - 1 - y, image_size - 1 - x, c]" if rotate_180 else "rgb[y, x, c]"
    if integer:
        return f"{to} = clamp(({pixel} * multiplier[c] + offset[c]) >> shift, -128, 127), >> rounds down"
    return f"{to} = ({pixel} * scale - mean[c]) / std[c]"
