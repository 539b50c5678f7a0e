"""``golden/golden.json``: images, real or drawn, with the outputs that each file must give for them."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from edgeprune.formats.preprocessing import Positive, Side, TensorRecord
from edgeprune.manifest import Record

if TYPE_CHECKING:
    import numpy as np

COMPARE_RULE = (
    "Feed each image through preprocess.json to each file. Where a file's tolerance is in logits, the largest absolute "
    "difference of any output from the expected one must be at most that; where it is tolerance_lsb, the outputs are "
    "int8 as stored, and no element may be further from the expected one than that many steps. `vectors` are files of "
    "the same inputs and outputs as raw little-endian bytes, in the dtype and layout of the file."
)


class GoldenImage(Record):
    """One golden input: a file of raw bytes, its label, which the card explains where it was drawn, and its name."""

    path: str
    label: str
    name: str


class GoldenVector(Record):
    """What goes into a file for one image, and what comes out, each as a file of raw little-endian bytes."""

    input: str
    output: str


class GoldenFile(Record):
    """What one model file must answer.

    Attributes:
        path: of the model file.
        runtime: that gave the outputs, with version.
        input, output: tensors of one call, as in ``preprocess.json``.
        layout: order of the input's axes.
        outputs: one row an image: logits, or the stored values where the output is int8.
        tolerance: largest absolute difference of a logit; None where the output is int8.
        tolerance_lsb: largest difference of a stored value; None where the output is float32.
        vectors: raw bytes for the first images.
    """

    path: str
    runtime: str
    input: TensorRecord
    output: TensorRecord
    layout: Literal["NCHW", "NHWC"]
    outputs: tuple[tuple[int | float, ...], ...]
    tolerance: Positive | None = None
    tolerance_lsb: Annotated[int, Field(ge=0, le=255)] | None = None
    vectors: tuple[GoldenVector, ...]

    @property
    def limit(self) -> float:
        """The tolerance, in whichever unit the output has."""
        return self.tolerance if self.tolerance is not None else float(self.tolerance_lsb or 0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        stored = self.output.dtype == "int8"
        if (self.tolerance_lsb is not None) != stored or (self.tolerance is None) != stored:
            raise ValueError(f"{self.path} has {self.output.dtype} outputs, and a tolerance in another unit or in none")
        classes = self.output.shape[-1]
        if any(len(row) != classes for row in self.outputs):
            raise ValueError(f"{self.path} has a row of outputs that is not of {classes} values")
        if stored and not all(isinstance(value, int) and -128 <= value <= 127 for row in self.outputs for value in row):
            raise ValueError(f"{self.path} has an output that is no int8")
        return self


class GoldenRecord(Record):
    """``golden/golden.json``: inputs with expected outputs.

    Attributes:
        shape, dtype, layout, colour: of each ``.rgb`` file: (height, width, 3), resized, upright, not normalised.
        compare: how to compare, in sentences.
    """

    format: Literal[2] = 2
    shape: tuple[Side, Side, Literal[3]]
    dtype: Literal["uint8"] = "uint8"
    layout: Literal["HWC"] = "HWC"
    colour: Literal["RGB"] = "RGB"
    compare: str = COMPARE_RULE
    images: Annotated[tuple[GoldenImage, ...], Field(min_length=1)]
    files: Annotated[tuple[GoldenFile, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        for file in self.files:
            if len(file.outputs) != len(self.images):
                raise ValueError(f"{file.path} has {len(file.outputs)} rows of outputs for {len(self.images)} images")
            if len(file.vectors) > len(self.images):
                raise ValueError(f"{file.path} has {len(file.vectors)} vectors for {len(self.images)} images")
        return self


def image_path(index: int) -> str:
    """Where a golden image lies in the bundle.

    >>> image_path(3)
    'golden/03.rgb'
    """
    return f"golden/{index:02}.rgb"


def vector_path(model: str, index: int, kind: Literal["input", "output"]) -> str:
    """Where the raw bytes of a model file's input or output lie in the bundle.

    >>> vector_path("model_int8.tflite", 0, "input")
    'golden/model_int8_tflite/00.input'
    """
    return f"{vector_folder(model)}{index:02}.{kind}"


def vector_folder(model: str) -> str:
    """The folder of a model file's raw golden inputs and outputs, ending in a slash."""
    return f"golden/{model.replace('/', '_').replace('.', '_')}/"


def raw_bytes(tensor: "np.ndarray") -> bytes:
    """The bytes of a golden vector: the elements in order, little-endian whatever this machine is."""
    return tensor.astype(tensor.dtype.newbyteorder("<")).tobytes()
