"""What every section of the recipe is: frozen and strict; and the kinds of number that stand in them."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
# A batch of one image has no variance for BatchNorm to learn from.
Batch = Annotated[int, Field(ge=2)]
Triple = tuple[float, float, float]


def later(default: Any, *, description: str | None = None) -> Any:
    """A key that came after models were published: as long as it is off, their digests are what they were."""
    return Field(default, description=description, json_schema_extra={"later": True})


class Section(BaseModel):
    """A part of the recipe: frozen, no unknown keys, no NaN, no quiet conversion of text to numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def counted(self) -> dict[str, Any]:
        """Values as a digest counts them: without the later keys that are off."""
        off = {name: field.default for name, field in type(self).model_fields.items() if field.json_schema_extra}
        values = self.model_dump(mode="json")
        return {name: value for name, value in values.items() if name not in off or getattr(self, name) != off[name]}
