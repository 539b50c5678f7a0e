"""``exports/index.json``: which bundles a folder or a static server has, and the digest of each one's manifest.

It is rebuilt from the bundles that are there each time one is published, so that it cannot disagree with them.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeprune.errors import InputError
from edgeprune.files import write_atomic
from edgeprune.formats import encode_record
from edgeprune.manifest import (
    MANIFEST,
    MAX_BUNDLE_BYTES,
    Digest,
    Level,
    Name,
    Record,
    parse_record,
    paths_problem,
)
from edgeprune.publish.landing import read_manifest

CATALOGUE = "index.json"
MAX_CATALOGUE_BYTES = 2**22

Share = Annotated[float, Field(ge=0, lt=1)]


class AccuracyRecord(Record):
    """Images classified correctly by the file, and images asked; see ``results.Accuracy``."""

    correct: Annotated[int, Field(ge=0)]
    n: Annotated[int, Field(ge=1)]


class CatalogueEntry(Record):
    """One bundle.

    Attributes:
        name, level: as in its manifest.
        path: its folder, relative to the catalogue.
        manifest_sha256: of the bytes of its ``manifest.json``.
        bytes: of all its files.
        target, achieved: channel sparsity, in [0, 1).
        accuracy: of the file, on the test split.
    """

    name: Name
    level: Level
    path: str
    manifest_sha256: Digest
    bytes: Annotated[int, Field(ge=0, le=MAX_BUNDLE_BYTES)]
    target: Share
    achieved: Share
    accuracy: AccuracyRecord

    @property
    def bundle(self) -> str:
        """The bundle's own name: ``elpv96-s60``."""
        return f"{self.name}-{self.level}"


class Catalogue(Record):
    """``index.json``: bundles sorted by name and level."""

    format: Literal[1] = 1
    bundles: Annotated[tuple[CatalogueEntry, ...], Field(max_length=1000)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        problem = paths_problem(entry.path for entry in self.bundles)
        if problem is not None:
            raise ValueError(problem)
        names = [entry.bundle for entry in self.bundles]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"it lists the bundle {twice[0]} more than once")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueUpdate:
    """A catalogue as it was written.

    Attributes:
        path: of the file.
        catalogue: what it lists.
        left_out: folders with a manifest that cannot be listed, with the reason.
    """

    path: Path
    catalogue: Catalogue
    left_out: tuple[str, ...]


class _SizeSummary(BaseModel):
    """The part of a bundle's ``size_report.json`` that the catalogue repeats; the rest is for readers of the report."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)
    target: Share
    achieved: Share
    accuracy: AccuracyRecord


def parse_catalogue(content: bytes, *, origin: str) -> Catalogue:
    """Read a catalogue that nobody has checked yet.

    Raises:
        InputError: not JSON, a value that does not fit, or a path that leaves the folder; the sentence names it.
    """
    return parse_record(Catalogue, content, origin=origin)


def rebuild_catalogue(exports: Path) -> CatalogueUpdate:
    """List the bundles of a folder in its ``index.json``.

    Args:
        exports: folder of bundles, each in a folder named after it; the one that a name stands for may be in a
            folder of the name alone, such as ``person96``, and gives way to the folder of its whole name.

    Raises:
        OSError: the file cannot be written; the old one stays.
    """
    entries: dict[tuple[str, str], CatalogueEntry] = {}
    left_out = []
    for path in sorted(exports.glob(f"*/{MANIFEST}")):
        # Folders being staged or replaced begin with a dot.
        if path.parent.name.startswith("."):
            continue
        try:
            entry = _entry(path.parent)
        except InputError as error:
            left_out.append(f"{path.parent.name}: {error.problem}")
            continue
        bundle = (entry.name, entry.level)
        # Folders come sorted: the one that a name stands for comes before the one of the bundle's whole name.
        if bundle in entries:
            left_out.append(f"{entries[bundle].path}: {path.parent.name} is the same bundle.")
        entries[bundle] = entry
    catalogue = Catalogue(bundles=tuple(entry for _, entry in sorted(entries.items())))
    write_atomic(exports / CATALOGUE, encode_record(catalogue))
    return CatalogueUpdate(path=exports / CATALOGUE, catalogue=catalogue, left_out=tuple(left_out))


def _entry(folder: Path) -> CatalogueEntry:
    manifest = read_manifest(folder)
    if folder.name not in {manifest.bundle, manifest.name}:
        raise InputError(f"its manifest says that it is {manifest.bundle}.", f"rename the folder to {manifest.bundle}")
    try:
        summary = _SizeSummary.model_validate_json((folder / "size_report.json").read_bytes())
    except (OSError, ValidationError):
        raise InputError("its size_report.json cannot be read.", "publish it again") from None
    return CatalogueEntry(
        name=manifest.name,
        level=manifest.level,
        path=folder.name,
        manifest_sha256=hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest(),
        bytes=manifest.size_bytes,
        target=summary.target,
        achieved=summary.achieved,
        accuracy=summary.accuracy,
    )
