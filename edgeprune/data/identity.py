"""Exactly which images a cache holds: digests that are the same on every machine, and copies that flatter figures."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from edgeprune.data.cache import PackedCache, PackedSplit
from edgeprune.data.split import UNLABELLED


def digest_images(cache: PackedCache, *, image_size: int) -> tuple[str, str]:
    """Digest of the images, and of their split.

    Returns:
        SHA-256 over name, class, split and content of every image, label weights and soft labels where there are any,
        and the image size; and SHA-256 over name and split of every image.
    """
    rows = sorted(
        ((split, row) for split in cache.splits.values() for row in range(len(split.names))),
        key=lambda place: place[0].names[place[1]],
    )
    parts = [("images", (_describe(cache, *place) for place in rows))]
    if any(split.weights is not None or split.soft is not None for split in cache.splits.values()):
        # Not for plain labels, so that a data set of them is called what it always was.
        parts.append(("labels", (detail for place in rows if (detail := _detail(*place)) is not None)))
    content = hashlib.sha256(f'{{"image_size":{image_size}'.encode())
    for name, part in parts:
        content.update(f',"{name}":'.encode())
        _update(content, part)
    content.update(b"}")
    splits = hashlib.sha256()
    _update(splits, ([split.names[row], split.name] for split, row in rows))
    return content.hexdigest(), splits.hexdigest()


def describe_copies(cache: PackedCache) -> Iterator[str]:
    """Copies of one image in two splits flatter the accuracy; in two classes they can never all be right."""
    import numpy as np

    digests = np.concatenate(list(cache.contents.values()))
    labels = np.concatenate([split.labels for split in cache.splits.values()])
    splits = np.repeat(list(cache.splits), [len(split.names) for split in cache.splits.values()])
    _, group, size = np.unique(digests, return_inverse=True, return_counts=True)
    found: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for row in np.flatnonzero(size[group] > 1).tolist():
        found[int(group[row])].append((str(splits[row]), int(labels[row])))
    shared: Counter[str] = Counter()
    torn = 0
    for copies in found.values():
        places = {split for split, _ in copies}
        shared[" and ".join(sorted(places))] += len(places) > 1
        torn += len({label for _, label in copies} - {UNLABELLED}) > 1
    for where, n in sorted((+shared).items()):
        yield f"{n:,} images are in {where} as exact copies: accuracy there is flattered."
    if torn:
        yield f"{torn:,} images are in more than one class as exact copies: no network can get all of them right."


def _describe(cache: PackedCache, split: PackedSplit, row: int) -> list[str | None]:
    label = int(split.labels[row])
    name = cache.classes[label] if label != UNLABELLED else None
    return [split.names[row], name, split.name, cache.contents[split.name][row].decode()]


def _detail(split: PackedSplit, row: int) -> list[Any] | None:
    """Name, label weight and soft label of an image that has more to its label than a class."""
    weight = float(split.weights[row]) if split.weights is not None else 1.0
    soft = split.soft[row].tobytes().hex() if split.soft is not None and split.soft[row, 0] >= 0 else ""
    return [split.names[row], weight, soft] if weight != 1 or soft else None


def _update(digest: "hashlib._Hash", rows: Iterable[Any]) -> None:
    """Add a list as ``digest_json`` writes it, row by row: a large set written at once would not fit into memory."""
    before = b"["
    for row in rows:
        digest.update(before + json.dumps(row, separators=(",", ":")).encode())
        before = b","
    digest.update(b"[]" if before == b"[" else b"]")
