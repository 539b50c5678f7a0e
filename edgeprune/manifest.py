"""The manifest of a bundle: every other file with its size and digest, and the rule for paths.

A manifest may come from a stranger's server, so nothing in it is believed before it is checked: ``parse_manifest`` is
the only way in, and a ``Manifest`` that exists has passed every rule here. Base install only: no numpy, no torch.
"""

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeprune.errors import InputError
from edgeprune.files import digest_file, digest_json

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 2**20
# A protobuf, so every ONNX file, ends at 2 GiB.
MAX_FILE_BYTES = 2**31
MAX_BUNDLE_BYTES = 2**32
MAX_FILES = 1000
MAX_PATH_BYTES = 255
# Written into any folder that a person looks at; neither ours nor worth an alarm.
LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# `name-level` is a folder's name on any file system.
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
Level = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]


class Record(BaseModel):
    """A value in one of our JSON files: frozen, no unknown keys, no NaN, no quiet conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


RecordType = TypeVar("RecordType", bound=Record)


class FileEntry(Record):
    """One file of a bundle.

    Attributes:
        path: relative to the bundle's folder, see ``path_problem``.
        sha256: of its bytes.
        bytes: its size.
        role: what it is for: ``model``, ``labels``, ``preprocess``, ``golden``, ``c_source``, ``npu``,
            ``threshold``, ``size_report``, ``verify``, ``recipe``, ``card``.
        media_type: as an HTTP server would name it.
    """

    path: str
    sha256: Digest
    bytes: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]
    role: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    media_type: Annotated[str, Field(pattern=r"^[a-z]+/[a-z0-9.+-]{1,64}(; charset=utf-8)?$")]


class Manifest(Record):
    """Every file of a bundle but the manifest itself.

    Attributes:
        format: 1; a reader refuses what it does not know.
        name, level: of the recipe and the schedule; together the bundle's folder.
        edgeprune: version that wrote it.
        files: sorted by path.
        digest: SHA-256 of all the values above in canonical form, so that a manifest damaged on its way is found
            without the catalogue at hand.
    """

    format: Literal[1]
    name: Name
    level: Level
    edgeprune: Annotated[str, Field(min_length=1, max_length=64)]
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1, max_length=MAX_FILES)]
    digest: Digest

    @property
    def bundle(self) -> str:
        """The bundle's own name, which is also its folder: ``elpv96-s60``."""
        return f"{self.name}-{self.level}"

    @property
    def size_bytes(self) -> int:
        """Bytes of all listed files; the manifest's own are not among them."""
        return sum(entry.bytes for entry in self.files)

    @model_validator(mode="after")
    def _check(self) -> Self:
        problem = paths_problem([entry.path for entry in self.files])
        if problem is not None:
            raise ValueError(problem)
        if self.size_bytes > MAX_BUNDLE_BYTES:
            raise ValueError(f"its files add up to {self.size_bytes} bytes, the limit is {MAX_BUNDLE_BYTES}")
        found = digest_json(self.model_dump(mode="json", exclude={"digest"}))
        if found != self.digest:
            raise ValueError(f"its values have the digest {found[:12]}..., it states {self.digest[:12]}...")
        return self


def path_problem(path: str) -> str | None:
    """What is wrong with a path of a bundle's file; None for a path that stays inside on every file system.

    The rule: relative POSIX; no ``..``, no part that begins with a dot, no backslash, no colon (drives, alternate
    streams), no control or invisible characters, no part that ends in a dot or blank, at most 255 bytes.

    >>> path_problem("golden/00.rgb") is None
    True
    >>> path_problem("../golden/00.rgb")
    "it has a part that begins with a dot ('..')"
    """
    return next(_path_problems(path), None)


def paths_problem(paths: Iterable[str]) -> str | None:
    """What is wrong with a list of paths, as a clause that names the path; None when they can live side by side.

    Beyond ``path_problem``: no two are equal when case and Unicode composition are ignored, as macOS and Windows do,
    and none is a folder of another.
    """
    seen = {MANIFEST: MANIFEST}
    for path in paths:
        problem = path_problem(path)
        if problem is not None:
            return f"the path {path!r} is refused: {problem}"
        key = unicodedata.normalize("NFC", path).casefold()
        if key in seen:
            return f"the path {path!r} is refused: {seen[key]!r} is the same on some file systems"
        seen[key] = path
    for key, path in seen.items():
        parents = key.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            folder = "/".join(parents[:depth])
            if folder in seen:
                return f"the path {path!r} is refused: {seen[folder]!r} is a file, so it cannot be its folder"
    return None


def _path_problems(path: str) -> Iterator[str]:
    if not path or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        yield f"it must have 1 to {MAX_PATH_BYTES} bytes"
    # Control, format (right-to-left override), surrogate, private and unassigned characters all begin with C.
    if any(unicodedata.category(character)[0] == "C" for character in path):
        yield "it has a control or invisible character"
    if path.startswith("/"):
        yield "it is absolute"
    for character in ("\\", ":"):
        if character in path:
            yield f"it has the character {character!r}"
    for part in path.split("/"):
        if not part:
            yield "it has an empty part"
        if part.startswith("."):
            yield f"it has a part that begins with a dot ({part!r})"
        if part != part.rstrip(". "):
            yield f"it has a part that ends in a dot or a blank ({part!r})"


def make_manifest(*, name: str, level: str, version: str, files: Iterable[FileEntry]) -> Manifest:
    """A manifest of these files, sorted by path, with its digest.

    Raises:
        InputError: a path breaks the rule, or a size its bound.
    """
    values: dict[str, Any] = {
        "format": 1,
        "name": name,
        "level": level,
        "edgeprune": version,
        "files": tuple(entry.model_dump(mode="json") for entry in sorted(files, key=lambda entry: entry.path)),
    }
    try:
        return Manifest.model_validate({**values, "digest": digest_json({**values, "files": list(values["files"])})})
    except ValidationError as failure:
        raise InputError(f"The bundle {name}-{level}: {_clause(failure)}.", "rename that file") from None


def parse_manifest(content: bytes, *, origin: str) -> Manifest:
    """Read a manifest that nobody has checked yet.

    Args:
        content: bytes of the file.
        origin: names it in errors.

    Raises:
        InputError: not JSON, an unknown format, a path that leaves the folder (named), a size out of bounds, or a
            digest that does not fit the values.
    """
    return parse_record(Manifest, content, origin=origin)


def parse_record(kind: type[RecordType], content: bytes, *, origin: str) -> RecordType:
    """Read one of our JSON files.

    Raises:
        InputError: not JSON, or a value that does not fit, which is named.
    """
    try:
        return kind.model_validate_json(content)
    except ValidationError as failure:
        raise InputError(
            f"{origin} is refused: {_clause(failure)}.", "pull the bundle again, or publish it again"
        ) from None


def damaged_files(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Listed files that are not what the manifest says, with what is wrong; links are not followed.

    Returns:
        Path to a clause such as ``is missing``; empty when every byte is right.
    """
    problems = {}
    for entry in manifest.files:
        path = folder / entry.path
        inner = [folder.joinpath(*Path(entry.path).parts[:depth]) for depth in range(1, len(Path(entry.path).parts))]
        try:
            status = path.lstat()
        except OSError:
            problems[entry.path] = "is missing"
            continue
        if not stat.S_ISREG(status.st_mode) or any(parent.is_symlink() for parent in inner):
            problems[entry.path] = "is a link or no plain file"
        elif status.st_size != entry.bytes:
            problems[entry.path] = f"has {status.st_size} bytes, the manifest says {entry.bytes}"
        elif (found := digest_file(path)) != entry.sha256:
            problems[entry.path] = f"has SHA-256 {found[:12]}..., the manifest says {entry.sha256[:12]}..."
    return problems


def unlisted_files(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """Files and links in a folder that its manifest does not list, sorted; a desktop's litter is left out."""
    listed = {MANIFEST, *(entry.path for entry in manifest.files)}
    found = []
    for place, folders, names in os.walk(folder):
        # A link to a folder is never walked into, and is as unlisted as a file.
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        found += [(Path(place) / name).relative_to(folder).as_posix() for name in (*names, *links)]
    return tuple(sorted(path for path in found if path not in listed and path.rpartition("/")[2] not in LITTER))


def _clause(failure: ValidationError) -> str:
    error = failure.errors()[0]
    where = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    if not where:
        return message if error["type"] == "value_error" else f"it is not readable JSON ({message})"
    shown = repr(error["input"])
    return f"{where} = {shown if len(shown) <= 80 else shown[:77] + '...'} does not fit ({message})"
