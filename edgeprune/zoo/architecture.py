"""architecture.json: which network a checkpoint holds, with how many channels, and how it is fed."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeprune.errors import InputError
from edgeprune.files import read_json
from edgeprune.zoo.channels import Channels

ARCHITECTURE = "architecture.json"

Positive = Annotated[float, Field(gt=0)]


class Architecture(BaseModel):
    """architecture.json, as untrusted as any other file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1]
    edgeprune: str
    network: str
    pad: Literal["torch", "same"]
    relu: Annotated[tuple[str, ...], Field(max_length=10_000)] = ()
    image_size: Annotated[int, Field(ge=16, le=1024)]
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=100_000)]
    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]
    channels: dict[str, Channels]

    def values(self) -> dict[str, Any]:
        """What the file holds; ``relu`` only where there is one, so that older files stay the same to the byte."""
        return self.model_dump(mode="json", exclude=None if self.relu else {"relu"})


def read_architecture(folder: Path) -> Architecture:
    """Read a checkpoint's architecture.json.

    Raises:
        InputError: it is missing, or does not follow the format.
    """
    path = folder / ARCHITECTURE
    if not path.is_file():
        raise InputError(f"{folder} holds no checkpoint ({ARCHITECTURE} is missing).", "make train, or check the path")
    try:
        return Architecture.model_validate(read_json(path))
    except ValidationError as failure:
        error = failure.errors()[0]
        where = ".".join(str(part) for part in error["loc"])
        raise InputError(f"{path}: {where}: {error['msg']}.", "restore the file; it is written by edgeprune") from None


def check_counts(folder: Path, unpruned: dict[str, Channels], stored: dict[str, Channels]) -> None:
    """Refuse absurd channel counts before anything is allocated for them.

    Raises:
        InputError: a count is below 1 or above what the unpruned network has.
    """
    for name, counts in stored.items():
        for attribute, count in counts.items():
            limit = unpruned.get(name, {}).get(attribute)
            if limit is None or not 1 <= count <= limit:
                raise InputError(
                    f"{folder / ARCHITECTURE}: {name}.{attribute} = {count} is outside 1 to {limit or 'nothing'}, "
                    "what the unpruned network has.",
                    "restore the file; it is written by edgeprune",
                )
