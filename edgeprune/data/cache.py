"""Images decoded once: uint8 arrays on disk, memory-mapped, checked at every opening.

A cache is a folder with the shards of ``pack.py`` and ``index.json``. The index holds the key (a digest of everything
the rows depend on), what the source says of itself, the digest of each shard's record and a digest of itself; a record
holds the digests of its arrays. A cache is used only when all of them agree.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from edgeprune.data.shard_plan import name_array, name_record
from edgeprune.data.shards import Images, ImagesByRow, open_images
from edgeprune.data.split import SPLITS
from edgeprune.errors import InputError
from edgeprune.files import digest_file, digest_json, read_json, write_json

if TYPE_CHECKING:
    import numpy as np

INDEX = "index.json"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedSplit:
    """The images of one split, decoded.

    Attributes:
        name: ``train``, ``val`` or ``test``.
        images: uint8, shape (n, size, size, 3), RGB, read-only and memory-mapped; one array, or several that are
            indexed as one.
        labels: int64, shape (n,), indices into the classes; ``UNLABELLED`` (-1) where nobody knows, in train only.
        names: n paths below the source's folder, sorted; out of a stream, in its order.
        weights: float32, shape (n,), how much each label counts in training, 0 for unlabelled rows; None where every
            row counts 1.
        soft: float32, shape (n, classes), probabilities; a row of NaN where there are none; None where no row has any.
    """

    name: str
    images: Images
    labels: "np.ndarray"
    names: tuple[str, ...]
    weights: "np.ndarray | None" = None
    soft: "np.ndarray | None" = None

    def first(self, count: int) -> Self:
        """The first images of the split, with all that belongs to them."""
        return replace(
            self,
            images=self.images[:count],
            labels=self.labels[:count],
            names=self.names[:count],
            weights=self.weights[:count] if self.weights is not None else None,
            soft=self.soft[:count] if self.soft is not None else None,
        )

    def labelled(self) -> Self:
        """The images whose class is known: what is judged by labels, calibrated or trained for int8 with."""
        import numpy as np

        rows = np.flatnonzero(self.labels >= 0)
        if len(rows) == len(self.labels):
            return self
        return replace(
            self,
            images=ImagesByRow(self.images, rows),
            labels=self.labels[rows],
            names=tuple(self.names[row] for row in rows),
            weights=self.weights[rows] if self.weights is not None else None,
            soft=self.soft[rows] if self.soft is not None else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedCache:
    """What a cache folder holds.

    Attributes:
        source, classes, credit, repair: as in ``Listing``.
        splits: split name to images.
        contents: split name to the SHA-256 of each image's file, hexadecimal digits as bytes, shape (n,).
        broken: name to reason, of the files that were left out.
    """

    source: str
    classes: tuple[str, ...]
    credit: str
    repair: str
    splits: dict[str, PackedSplit]
    contents: "dict[str, np.ndarray]"
    broken: dict[str, str]


class UnusableError(Exception):
    """Why a cache must be made again."""


def seal_index(folder: Path, index: dict[str, Any], shards: int) -> None:
    """Write the index of shards that lie in a folder, which makes it a cache."""
    index = index | {"shards": [digest_file(folder / name_record(number)) for number in range(shards)]}
    write_json(folder / INDEX, {"digest": digest_json(index), "index": index})


def open_cache(folder: Path, key: str) -> PackedCache:
    """Open a cache and check every byte of it.

    Raises:
        UnusableError: it is damaged, or was made for another key.
    """
    index = _read_index(folder, key)
    splits = {name: _Rows(classes=len(index["classes"])) for name in SPLITS}
    arrays: list[tuple[Path, str]] = []
    for number, digest in enumerate(index["shards"]):
        _check_digest(folder / name_record(number), digest)
        for name, part in read_json(folder / name_record(number))["splits"].items():
            arrays.append((folder / name_array(number, name), part["digest"]))
            splits[name].add(arrays[-1][0], part)
    with ThreadPoolExecutor() as pool:
        deque(pool.map(_check_digest, *zip(*arrays, strict=True)), maxlen=0)  # a result that is read raises its error
    return PackedCache(
        source=index["source"],
        classes=tuple(index["classes"]),
        credit=index["credit"],
        repair=index["repair"],
        splits={name: rows.pack(name, index["image_size"]) for name, rows in splits.items()},
        contents={name: _join(rows.contents, "S64") for name, rows in splits.items()},
        broken=index["broken"],
    )


def _read_index(folder: Path, key: str) -> dict[str, Any]:
    try:
        sealed = read_json(folder / INDEX)
        index: dict[str, Any] = sealed["index"]
        if digest_json(index) != sealed["digest"]:
            raise UnusableError(f"is damaged ({INDEX} digest differs)")
        if index["key"] != key:
            raise UnusableError("is stale (the images, their labels or the decoder changed)")
    except (InputError, OSError, KeyError, TypeError, ValueError):
        raise UnusableError(f"is damaged ({INDEX} is missing or unreadable)") from None
    return index


def _check_digest(path: Path, digest: str) -> None:
    try:
        found = digest_file(path)
    except OSError as error:
        raise UnusableError(f"is damaged ({error.strerror or error})") from None
    if found != digest:
        raise UnusableError(f"is damaged ({path.name} digest differs)")


@dataclass(slots=True, kw_only=True)
class _Rows:
    """What the records of all shards say about one split, in few bytes an image."""

    classes: int
    paths: list[Path] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    contents: "list[np.ndarray]" = field(default_factory=list)
    labels: "list[np.ndarray]" = field(default_factory=list)
    soft: "list[np.ndarray]" = field(default_factory=list)
    weights: "list[np.ndarray]" = field(default_factory=list)

    def add(self, path: Path, part: dict[str, Any]) -> None:
        import numpy as np

        self.paths.append(path)
        self.names += part["names"]
        self.contents.append(np.array(part["contents"], dtype="S64"))
        self.labels.append(np.array(part["labels"], dtype=np.int64))
        self.weights.append(np.array(part["weights"], dtype=np.float32))
        soft = np.full((len(part["names"]), self.classes), np.nan, dtype=np.float32)
        for row, shares in enumerate(part["soft"]):
            if shares is not None:
                soft[row] = np.frombuffer(bytes.fromhex(shares), dtype=np.float32)
        self.soft.append(soft)

    def pack(self, name: str, image_size: int) -> PackedSplit:
        import numpy as np

        weights, soft = _join(self.weights, "float32"), _join(self.soft, "float32")
        return PackedSplit(
            name=name,
            images=open_images(self.paths, [len(labels) for labels in self.labels], image_size=image_size),
            labels=_join(self.labels, "int64"),
            names=tuple(self.names),
            weights=weights if (weights != 1).any() else None,
            soft=soft if not np.isnan(soft).all() else None,
        )


def _join(parts: "Sequence[np.ndarray]", dtype: str) -> "np.ndarray":
    import numpy as np

    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)
