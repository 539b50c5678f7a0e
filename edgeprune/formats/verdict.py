"""``verify.json``, and the bytes of every JSON file of a bundle."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from edgeprune.manifest import Record


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


def encode_record(record: Record) -> bytes:
    """The bytes of one of our JSON files: sorted keys, two spaces, so that equal values give equal bytes."""
    return encode_json(record.model_dump(mode="json"))


def encode_json(value: Any) -> bytes:
    """As ``edgeprune.files.write_json`` would store it."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()
