"""The data of a run: three packed splits, their classes, and digests that say exactly which images they were."""

import importlib.util
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeprune.data.cache import PackedCache, PackedSplit, list_broken, load_packed
from edgeprune.data.elpv import list_elpv
from edgeprune.data.imagefolder import list_folder
from edgeprune.data.split import Listing
from edgeprune.errors import InputError, MissingExtraError
from edgeprune.files import digest_json


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """Images, decoded and split. No name is in two splits, and every class has images in each.

    Attributes:
        source: ``elpv`` or ``imagefolder``.
        classes: class names; labels are indices into them.
        image_size: height and width of every image, pixels.
        train, val, test: the splits: select on val, recalibrate and calibrate on train, report on test.
        digest: SHA-256 over name, class, split and content of every image, and the image size. The same on every
            machine that has the same files.
        split_digest: SHA-256 over name and split of every image.
        skipped: names of the broken files that were left out.
        credit: licence and origin of the images, for cards.
    """

    source: str
    classes: tuple[str, ...]
    image_size: int
    train: PackedSplit
    val: PackedSplit
    test: PackedSplit
    digest: str
    split_digest: str
    skipped: tuple[str, ...]
    credit: str


def load_dataset(
    *,
    source: str,
    path: Path | None,
    image_size: int,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    skip_broken: bool,
    cache_dir: Path,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """List, split, decode and open the images of a source; decoding happens once and is cached.

    Args:
        source: ``elpv`` (see ``list_elpv``) or ``imagefolder`` (see ``list_folder``).
        path: the folder, for ``imagefolder``.
        image_size: height and width, pixels.
        val_fraction, test_fraction: shares, in (0, 1), together below 1.
        split_seed: another seed, another split.
        skip_broken: leave out files that cannot be read, instead of raising.
        cache_dir: the cache gets a folder of its own in here, one for each set of these arguments.
        say: hears one sentence for each thing worth knowing.
        progress: images done and in total, while decoding.

    Raises:
        InputError: no such source, a folder that cannot be used, broken files, a class without images in a split.
        MissingExtraError: a package of the extra ``prune`` is not installed.
    """
    for module in ("numpy", "PIL"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError("edgeprune", "prune", module)
    if source == "elpv":
        listing = list_elpv(val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed)
    elif source == "imagefolder":
        listing = list_folder(path, val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed)
    else:
        raise InputError(f"The data source {source!r} is not known.", "elpv or imagefolder")
    for note in listing.notes:
        say(note)
    # One folder for each question asked; whether its answer is still right is for the key inside to say. So a stale
    # cache is replaced in place, and recipes that differ do not throw each other's out.
    question = digest_json([listing.location, image_size, val_fraction, test_fraction, split_seed])
    cache = load_packed(
        listing,
        image_size=image_size,
        skip_broken=skip_broken,
        folder=cache_dir / f"{source}-{image_size}-{question[:12]}",
        say=say,
        progress=progress,
    )
    if cache.broken:
        say(f"Left out {len(cache.broken):,} broken images: {list_broken(cache.broken)}.")
    _report_copies(cache, say)
    return _describe(listing, cache, image_size)


def _report_copies(cache: PackedCache, say: Callable[[str], None]) -> None:
    """Copies of one image in two splits flatter the accuracy; in two classes they can never all be right."""
    places: dict[str, set[str]] = defaultdict(set)
    labels: dict[str, set[int]] = defaultdict(set)
    for split in cache.splits.values():
        for name, label in zip(split.names, split.labels.tolist(), strict=True):
            places[cache.contents[name]].add(split.name)
            labels[cache.contents[name]].add(label)
    shared = Counter(" and ".join(sorted(found)) for found in places.values() if len(found) > 1)
    for where, n in sorted(shared.items()):
        say(f"{n:,} images are in {where} as exact copies: accuracy there is flattered.")
    torn = sum(len(found) > 1 for found in labels.values())
    if torn:
        say(f"{torn:,} images are in more than one class as exact copies: no network can get all of them right.")


def _describe(listing: Listing, cache: PackedCache, image_size: int) -> Dataset:
    rows = sorted(
        [name, listing.classes[label], split.name, cache.contents[name]]
        for split in cache.splits.values()
        for name, label in zip(split.names, split.labels.tolist(), strict=True)
    )
    return Dataset(
        source=listing.source,
        classes=listing.classes,
        image_size=image_size,
        train=cache.splits["train"],
        val=cache.splits["val"],
        test=cache.splits["test"],
        digest=digest_json({"image_size": image_size, "images": rows}),
        split_digest=digest_json([[name, split] for name, _, split, _ in rows]),
        skipped=tuple(cache.broken),
        credit=listing.credit,
    )
