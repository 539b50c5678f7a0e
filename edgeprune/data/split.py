"""A split that stays the same: by hash of the image's name, so no library's random generator has a say in it."""

import hashlib
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgeprune.errors import InputError

SPLITS = ("train", "val", "test")
# The label of a training image whose class nobody knows; only a teacher or a soft label says what it shows.
UNLABELLED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """One image before it is read.

    Attributes:
        name: path below the source's folder, ``/`` between parts, Unicode NFC: the same on every machine.
        path: where the file is; empty for an image that comes out of a stream.
        label: index of its class, or ``UNLABELLED``, in train only.
        split: ``train``, ``val`` or ``test``.
        weight: how much its label counts in training, 0 or more; 0 where there is none.
        soft: a probability for each class, float32, as bytes; None without.
    """

    name: str
    path: Path
    label: int
    split: str
    weight: float = 1.0
    soft: bytes | None = None


class ImageStream(Protocol):
    """Images that are read one after the other, in the order of a listing's files."""

    @property
    def version(self) -> str:
        """Names the content: another version, other images."""

    def read(self, files: Sequence[ImageFile]) -> Iterator[bytes | None]:
        """The bytes of the next images; None where a row holds none. They must be the files that come next."""

    def position(self) -> Any:
        """Where reading stands after the last image, as JSON."""

    def go_on(self, position: Any) -> None:
        """Read from there on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The images of a source with their classes and splits; nothing is decoded yet.

    Attributes:
        source: as the recipe calls it.
        location: tells sources of the same kind apart; never leaves this machine.
        classes: class names; a label is an index into them.
        files: train, then val, then test, each by name; out of a stream, in its order.
        credit: licence and origin of the images.
        repair: what to try when a file is broken.
        notes: what a person should know about the source, one sentence each.
        stream: gives the images that are no files; None where all are.
    """

    source: str
    location: str
    classes: tuple[str, ...]
    files: tuple[ImageFile, ...]
    credit: str
    repair: str
    notes: tuple[str, ...] = ()
    stream: ImageStream | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteListing:
    """A listing that costs a download, and is asked for only when its images are not there yet.

    Attributes:
        location: tells sources of the same kind apart; never leaves this machine.
        key: digest of all that was asked for.
        ask: gives the listing.
    """

    location: str
    key: str
    ask: Callable[[], Listing]


def split_by_hash(strata: Mapping[str, str], *, val_fraction: float, test_fraction: float, seed: int) -> dict[str, str]:
    """Assign every name to ``train``, ``val`` or ``test``, in the same proportions within each stratum.

    Within a stratum names are sorted by ``sha256(f"{seed}:{name}")``; the first ``test_fraction`` of them are test,
    the next ``val_fraction`` are val, the rest train. Counts are rounded half up, and each split gets at least one
    image of every stratum. So ``val_fraction`` never moves an image into or out of test, and the same names and
    seed give the same split with every version of Python and of every library.

    Args:
        strata: name to stratum (for example its class).
        val_fraction, test_fraction: shares of each stratum, in (0, 1), together below 1.
        seed: another seed, another split.

    Returns:
        Name to split, for every name given.

    Raises:
        InputError: a stratum has fewer than three images.

    >>> split = split_by_hash({f"{n}.png": "cat" for n in range(10)}, val_fraction=0.2, test_fraction=0.2, seed=0)
    >>> [sorted(split.values()).count(name) for name in SPLITS]
    [6, 2, 2]
    """
    members: dict[str, list[str]] = {}
    for name, stratum in strata.items():
        members.setdefault(stratum, []).append(name)
    splits: dict[str, str] = {}
    for stratum, names in members.items():
        n = len(names)
        if n < len(SPLITS):
            raise InputError(
                f"Class {show(stratum)} has {n} image{'s' * (n != 1)}; train, val and test need at least one each (3).",
                "add images of that class, or remove its folder",
            )
        names.sort(key=lambda name: hash_name(name, seed))
        test = min(max(math.floor(n * test_fraction + 0.5), 1), n - 2)
        val = min(max(math.floor(n * val_fraction + 0.5), 1), n - 1 - test)
        for position, name in enumerate(names):
            splits[name] = "test" if position < test else "val" if position < test + val else "train"
    return splits


def require_classes(what: str, classes: Sequence[str], files: Iterable[ImageFile]) -> None:
    """Every class must be there to be judged; to be learned too, unless a teacher or soft labels can tell of it.

    Raises:
        InputError: a class has no image in a split.
    """
    found, soft = set(), False
    for file in files:
        found.add((file.split, file.label))
        soft |= file.soft is not None
    told = soft or ("train", UNLABELLED) in found
    for split in SPLITS[1:] if told else SPLITS:
        for label, name in enumerate(classes):
            if (split, label) not in found:
                raise InputError(f"{what} has no image of class {show(name)} in {split}.", f"images of it in {split}")


def hash_name(name: str, seed: int | str) -> str:
    """A key that puts names in an order that looks random and depends on nothing but ``seed``."""
    # Linux names are bytes; those that are not UTF-8 reach Python as lone surrogates and must hash as well.
    return hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).hexdigest()


def normal_name(path: Path) -> str:
    """A relative path as the name of an image: ``/`` between parts and Unicode NFC.

    Some file systems hand accents back decomposed (NFD); the split must not depend on which one it was.
    """
    return unicodedata.normalize("NFC", path.as_posix())


def show(name: object) -> str:
    """A name in quotes that every terminal can print, whatever bytes the file system holds."""
    text = str(name).encode("utf-8", "backslashreplace").decode()
    return "'" + "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text) + "'"
