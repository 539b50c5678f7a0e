"""The small JSON files inside a bundle, as publish writes them and verify reads them, and the ONNX file's metadata.

Written once here, so that what one stage puts down and the other expects cannot drift apart. Base install only.
"""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from edgeprune.errors import InputError
from edgeprune.manifest import Level, Name, Record

LAYOUT = "NCHW RGB float32"
RESIZE_RULE = "whole image squashed to the square, antialiased bilinear"
FORMULA = "input[0, c, y, x] = (rgb[y, x, c] * scale - mean[c]) / std[c]"
COMPARE_RULE = (
    "Feed each image through preprocess.json to each file; the largest absolute difference of any logit "
    "from the expected one must be at most the file's tolerance."
)

Positive = Annotated[float, Field(gt=0)]
Side = Annotated[int, Field(ge=1, le=8192)]
Count = Annotated[int, Field(ge=1)]
Triple = tuple[float, float, float]


class TensorRecord(Record):
    """Name, shape and element type of a model's input or output."""

    name: str
    shape: tuple[Count, ...]
    dtype: str


class PreprocessRecord(Record):
    """``preprocess.json``: from a decoded photograph to the model's input.

    Attributes:
        input, output: tensors of one call with one image.
        layout, colour: order of axes and channels.
        dynamic_batch: the first axis of both takes any size.
        resize: how a photograph becomes a square of ``image_size`` pixels.
        scale: factor from uint8 to [0, 1].
        mean, std: one value a channel, in units of [0, 1] pixels.
        formula: all of it in one line.
    """

    format: Literal[1] = 1
    input: TensorRecord
    output: TensorRecord
    layout: Literal["NCHW"] = "NCHW"
    colour: Literal["RGB"] = "RGB"
    dynamic_batch: bool = False
    resize: str = RESIZE_RULE
    image_size: Side
    scale: Positive = 1 / 255
    mean: Triple
    std: tuple[Positive, Positive, Positive]
    formula: str = FORMULA


class GoldenImage(Record):
    """One golden input: a file of raw bytes, the true label, and the image's name in the data set."""

    path: str
    label: str
    name: str


class GoldenFile(Record):
    """What one model file must answer: ``logits`` has one row an image, ``tolerance`` is absolute, in logits."""

    path: str
    tolerance: Positive
    logits: tuple[tuple[float, ...], ...]


class GoldenRecord(Record):
    """``golden/golden.json``: real inputs with expected outputs.

    Attributes:
        shape, dtype, layout, colour: of each ``.rgb`` file: (height, width, 3), resized, not normalised.
        compare: how to compare, in a sentence.
    """

    format: Literal[1] = 1
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
            if len(file.logits) != len(self.images):
                raise ValueError(f"{file.path} has {len(file.logits)} rows of logits for {len(self.images)} images")
        return self


class GateRecord(Record):
    """A gate as it was when the bundle was published; see ``results.Gate``."""

    name: str
    figure: float | int | str
    limit: str
    passed: bool
    detail: str = ""


class VerifyRecord(Record):
    """``verify.json``: every gate with its figure, limit and verdict, and where they were measured.

    Attributes:
        environment: versions of the runtimes and the name of the processor.
    """

    format: Literal[1] = 1
    passed: bool
    edgeprune: str
    gates: Annotated[tuple[GateRecord, ...], Field(min_length=1)]
    environment: dict[str, str]


class ModelMetadata(Record):
    """What an exported file says about itself; stored in an ONNX file as text, one property a field.

    Attributes:
        name, level, version: of the bundle, and of the edgeprune that exported it.
        labels: classes in the order of the logits.
        image_size: height and width, pixels.
        mean, std: one value a channel, in units of [0, 1] pixels.
        layout: of the input.
        target, achieved: channel sparsity, in [0, 1).
        macs: multiply-accumulates of one image with the counter's name: ``4731904 fvcore``.
        accuracy: on the test split, for a person to read.
        data_digest, recipe_digest: what it was made from.
    """

    name: Name
    level: Level
    version: str
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    image_size: Side
    mean: Triple
    std: Triple
    layout: str = LAYOUT
    target: Annotated[float, Field(ge=0, lt=1)]
    achieved: Annotated[float, Field(ge=0, lt=1)]
    macs: Annotated[str, Field(pattern=r"^\d+ [a-z]+$")]
    accuracy: str
    data_digest: str
    recipe_digest: str

    def as_text(self) -> dict[str, str]:
        """Property names to text: strings as they are, all else as JSON.

        >>> fields = dict(name="elpv96", level="s60", version="0.1.0", labels=("good", "bad"), image_size=96,
        ...     mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), target=0.6, achieved=0.6, macs="4731904 fvcore",
        ...     accuracy="0.83", data_digest="d", recipe_digest="r")
        >>> ModelMetadata(**fields).as_text()["labels"]
        '["good", "bad"]'
        """
        values = self.model_dump(mode="json")
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def parse_metadata(properties: dict[str, str], *, origin: str) -> ModelMetadata:
    """Read back what ``ModelMetadata.as_text`` wrote; properties of others are left alone.

    Raises:
        InputError: a property is missing or does not fit; the sentence names it.
    """
    values: dict[str, Any] = {}
    for key, field in ModelMetadata.model_fields.items():
        if key in properties:
            try:
                values[key] = properties[key] if field.annotation is str else json.loads(properties[key])
            except json.JSONDecodeError:
                # Kept as text, so that the check below names it.
                values[key] = properties[key]
    try:
        # Through JSON, where a list may stand for a tuple.
        return ModelMetadata.model_validate_json(json.dumps(values))
    except ValidationError as failure:
        error = failure.errors()[0]
        where = ".".join(str(part) for part in error["loc"])
        raise InputError(
            f"{origin}: the metadata `{where}` does not fit ({error['msg']}).", "export it again"
        ) from None


def encode_record(record: Record) -> bytes:
    """The bytes of one of our JSON files: sorted keys, two spaces, so that equal values give equal bytes."""
    return encode_json(record.model_dump(mode="json"))


def encode_json(value: Any) -> bytes:
    """As ``edgeprune.files.write_json`` would store it."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()
