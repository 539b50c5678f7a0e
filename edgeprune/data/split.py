"""A split that stays the same: by hash of the image's name, so no library's random generator has a say in it."""

import hashlib
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import InputError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """One image before it is read.

    Attributes:
        name: path below the source's folder, ``/`` between parts, Unicode NFC: the same on every machine.
        path: where the file is.
        label: index of its class.
        split: ``train``, ``val`` or ``test``.
    """

    name: str
    path: Path
    label: int
    split: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The images of a source with their classes and splits; nothing is decoded yet.

    Attributes:
        source: ``elpv`` or ``imagefolder``.
        location: tells sources of the same kind apart; never leaves this machine.
        classes: class names; a label is an index into them.
        files: train, then val, then test, each by name.
        credit: licence and origin of the images.
        repair: what to try when a file is broken.
        notes: what a person should know about the source, one sentence each.
    """

    source: str
    location: str
    classes: tuple[str, ...]
    files: tuple[ImageFile, ...]
    credit: str
    repair: str
    notes: tuple[str, ...] = ()


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
