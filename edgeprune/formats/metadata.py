"""What an exported file says about itself: in an ONNX file as text properties, in a TFLite file as one JSON text."""

import json
from typing import Annotated, Any

from pydantic import Field, ValidationError

from edgeprune.errors import InputError
from edgeprune.formats.preprocessing import Side, Triple
from edgeprune.manifest import Level, Name, Record

LAYOUT = "NCHW RGB float32"


class ModelMetadata(Record):
    """What an exported file says about itself; stored in an ONNX file as text, one property a field.

    Attributes:
        name, level, version: of the bundle, and of the edgeprune that exported it.
        labels: classes in the order of the logits.
        image_size: height and width, pixels.
        mean, std: one value a channel, in units of [0, 1] pixels.
        layout: of the input: order of axes, of colours, and what one element is.
        rotate_180: the image is fed rotated by 180 degrees.
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
    rotate_180: bool = False
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
