"""The data of a run: three packed splits, their classes, and digests that say exactly which images they were."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeprune.data.build import list_broken, load_packed
from edgeprune.data.cache import PackedSplit
from edgeprune.data.csv_list import list_csv
from edgeprune.data.elpv import list_elpv
from edgeprune.data.hub import HubOptions, list_hub
from edgeprune.data.identity import describe_copies, digest_images
from edgeprune.data.imagefolder import list_folder
from edgeprune.data.split import Listing, RemoteListing
from edgeprune.data.vww import list_vww
from edgeprune.errors import InputError, MissingExtraError
from edgeprune.files import digest_json


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """Images, decoded and split. No name is in two splits, and every class has images in val and test.

    Attributes:
        source: as the recipe calls it.
        classes: class names; labels are indices into them.
        image_size: height and width of every image, pixels.
        train, val, test: the splits: select on val, recalibrate and calibrate on train, report on test.
        digest: SHA-256 over name, class, split and content of every image, label weights and soft labels where there
            are any, and the image size. The same on every machine that has the same files.
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
    hub: HubOptions | None = None,
) -> Dataset:
    """List, split, decode and open the images of a source; decoding happens once and is cached.

    Args:
        source: ``elpv``, ``imagefolder``, ``csv``, ``hf`` or ``vww``: see ``list_elpv``, ``list_folder``, ``list_csv``,
            ``list_hub`` and ``list_vww``.
        path: the folder, the list, or the name of the set on the hub.
        image_size: height and width, pixels.
        val_fraction, test_fraction: shares, in (0, 1), together below 1.
        split_seed: another seed, another split.
        skip_broken: leave out files that cannot be read, instead of raising.
        cache_dir: the cache gets a folder of its own in here, one for each set of these arguments.
        say: hears one sentence for each thing worth knowing.
        progress: images done and in total, while decoding.
        hub: what else there is to say about a set of ``hf``.

    Raises:
        InputError: no such source, a folder that cannot be used, broken files, a class without images in a split.
        MissingExtraError: a package of the extra ``prune`` is not installed, or of ``hf``, for that source.
    """
    for module in ("numpy", "PIL"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError("edgeprune", "prune", module)
    listing: Listing | RemoteListing
    if source == "elpv":
        listing = list_elpv(val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed)
    elif source == "imagefolder":
        listing = list_folder(path, val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed)
    elif source == "vww":
        listing = list_vww(path, val_fraction=val_fraction, split_seed=split_seed, cache_dir=cache_dir, say=say)
    elif source == "csv":
        listing = list_csv(path, val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed)
    elif source == "hf":
        listing = list_hub(
            path,
            options=hub or HubOptions(),
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            work_dir=cache_dir / ".hub",
            say=say,
        )
    else:
        raise InputError(f"The data source {source!r} is not known.", "elpv, imagefolder, csv, hf or vww")
    if isinstance(listing, Listing):
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
    for line in describe_copies(cache):
        say(line)
    digest, split_digest = digest_images(cache, image_size=image_size)
    return Dataset(
        source=cache.source,
        classes=cache.classes,
        image_size=image_size,
        train=cache.splits["train"],
        val=cache.splits["val"],
        test=cache.splits["test"],
        digest=digest,
        split_digest=split_digest,
        skipped=tuple(cache.broken),
        credit=cache.credit,
    )
