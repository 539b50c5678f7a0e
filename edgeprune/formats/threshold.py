"""``threshold.json``: where a two-class bundle's answers are cut, and what that decides for golden images."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgeprune.formats.preprocessing import Count
from edgeprune.manifest import Record

THRESHOLD = "threshold.json"
DECISION_RULE = (
    "`positive` is decided where its output is more than `difference` above the output of `negative`, outputs as the "
    "file gives them: logits, or stored int8 values, where the difference is a whole number and no softmax is needed. "
    "`probability` is the same cut as a softmax probability."
)

Share = Annotated[float, Field(ge=0, le=1)]


class FileThreshold(Record):
    """The threshold of one model file.

    Attributes:
        path: of the model file.
        difference: see ``DECISION_RULE``; 0 decides as argmax does.
        probability: of the positive class, at that difference.
        argmax, chosen: the criterion on the images that it was chosen on, at a difference of 0 and at this one.
        golden: what is decided for each golden image.
    """

    path: str
    difference: int | float
    probability: Share
    argmax: Share
    chosen: Share
    golden: tuple[str, ...]


class ThresholdRecord(Record):
    """``threshold.json``.

    Attributes:
        negative, positive: classes, in the order of the outputs.
        criterion: what was made as large as possible.
        split, images: which images it was chosen on: held out of training, and not those of any published figure.
        rule: how to decide, in sentences.
        files: one entry a model file.
    """

    format: Literal[1] = 1
    negative: str
    positive: str
    criterion: Literal["balanced_accuracy", "accuracy"]
    split: Literal["val"] = "val"
    images: Count
    rule: str = DECISION_RULE
    files: Annotated[tuple[FileThreshold, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        worse = next((file for file in self.files if file.chosen < file.argmax), None)
        if worse is not None:
            raise ValueError(f"{worse.path} has {self.criterion} {worse.chosen} where argmax has {worse.argmax}")
        return self

    def of(self, path: str) -> FileThreshold | None:
        """The entry of a model file."""
        return next((file for file in self.files if file.path == path), None)
