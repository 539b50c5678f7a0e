"""The cache of a listing: opened where it is right, else made in a folder beside it and then put in its place.

An interrupted packing leaves that folder, ``.NAME.part``, and the next one goes on in it.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from edgeprune.data.cache import INDEX, PackedCache, UnusableError, open_cache, seal_index
from edgeprune.data.decode import BrokenImageError, prepared_decoders, read_image
from edgeprune.data.pack import pack_shards
from edgeprune.data.shard_plan import name_decoder, plan_shards
from edgeprune.data.split import UNLABELLED, Listing, RemoteListing, show
from edgeprune.errors import InputError
from edgeprune.files import digest_json, staged_folder

_LOCK = "lock"
_LOOK_AGAIN_SECONDS = 0.2


def load_packed(
    source: Listing | RemoteListing,
    *,
    image_size: int,
    skip_broken: bool,
    folder: Path,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] | None = None,
) -> PackedCache:
    """Open the cache of a listing, and make it first when it is missing, stale or damaged.

    Args:
        source: the images, or how to ask for them.
        image_size: height and width, pixels.
        skip_broken: leave broken files out instead of raising.
        folder: where the cache is or will be.
        say: hears one sentence when a cache is made, and why an old one was not used.
        progress: images done and in total, while decoding.

    Raises:
        InputError: files are broken and ``skip_broken`` is off, or the cache cannot be written.
    """
    ask, key = _question(source, image_size)
    kept = source if isinstance(source, Listing) else None
    cache = _try_cache(folder, key, kept, image_size, say)
    if cache is None:
        part = folder.with_name(f".{folder.name}.part")
        try:
            with _have_alone(part, say) as waited:
                if not waited or _try_cache(folder, key, kept, image_size, say) is None:
                    _make_cache(
                        ask(),
                        part,
                        folder,
                        key,
                        image_size=image_size,
                        skip_broken=skip_broken,
                        say=say,
                        progress=progress,
                    )
                shutil.rmtree(part, ignore_errors=True)
        except OSError as error:
            raise InputError(
                f"The image cache {show(folder)} cannot be written: {error.strerror or error}.",
                "free space there, or allow writing to it; what is decoded already is kept",
            ) from None
        cache = open_cache(folder, key)
    if not skip_broken:
        _refuse_broken(cache.broken, sum(len(split.names) for split in cache.splits.values()), cache.repair)
    return cache


def list_broken(broken: Mapping[str, str]) -> str:
    """The first few broken files with their reasons, and how many more there are."""
    first = "; ".join(f"{show(name)} ({reason})" for name, reason in list(broken.items())[:5])
    return first + (f"; and {len(broken) - 5:,} more" if len(broken) > 5 else "")


def _question(source: Listing | RemoteListing, image_size: int) -> tuple[Callable[[], Listing], str]:
    """How to ask for the images, and the digest of everything that the rows depend on."""
    if isinstance(source, RemoteListing):
        return source.ask, digest_json([source.key, name_decoder(image_size)])
    shards = plan_shards(source, image_size=image_size)
    labels = [
        digest_json([[file.label, file.weight, file.soft.hex() if file.soft else None] for file in shard.files])
        for shard in shards
    ]
    about = [source.source, source.classes, source.credit, source.repair]
    return lambda: source, digest_json([about, [shard.key for shard in shards], labels])


def _try_cache(
    folder: Path, key: str, listing: Listing | None, image_size: int, say: Callable[[str], None]
) -> PackedCache | None:
    if not folder.exists():
        return None
    try:
        cache = open_cache(folder, key)
        if listing is not None:
            _retry_broken(listing, cache, image_size)
    except UnusableError as reason:
        say(f"The image cache {show(folder)} {reason}: decoding again.")
        return None
    return cache


def _retry_broken(listing: Listing, cache: PackedCache, image_size: int) -> None:
    # Neither size nor time change when a permission is mended or a disk comes back, so the key cannot tell.
    with prepared_decoders():
        for file in listing.files:
            if file.name in cache.broken:
                try:
                    read_image(file.path, image_size)
                except BrokenImageError:
                    continue
                raise UnusableError(f"is stale ({show(file.name)}, left out before, can be read now)")


@contextmanager
def _have_alone(part: Path, say: Callable[[str], None]) -> Iterator[bool]:
    """Have a folder for this process alone; tells whether another one had it until now."""
    waited = False
    while (lock := _try_lock(part)) is None:
        if not waited:
            say("Another process is decoding these images: waiting for it.")
        waited = True
        time.sleep(_LOOK_AGAIN_SECONDS)
    with lock:
        yield waited


def _try_lock(part: Path) -> TextIO | None:
    part.mkdir(parents=True, exist_ok=True)
    try:
        lock = (part / _LOCK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Where another process has just ended well, its folder is gone, and this lock with it.
            if os.path.samestat(os.fstat(lock.fileno()), (part / _LOCK).stat()):
                return lock
        except BaseException:
            lock.close()
            raise
        lock.close()
    except (BlockingIOError, FileNotFoundError):
        pass
    return None


def _make_cache(
    listing: Listing,
    part: Path,
    folder: Path,
    key: str,
    *,
    image_size: int,
    skip_broken: bool,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] | None,
) -> None:
    say(f"Decoding {len(listing.files):,} images of {listing.source} to {image_size} x {image_size} pixels, once.")
    shards = plan_shards(listing, image_size=image_size)
    if any(part.glob("*.json")):
        say("What an earlier decoding finished is kept.")
    packed = pack_shards(listing, shards, part, image_size=image_size, older=folder, progress=progress)
    if not skip_broken:
        _refuse_broken(packed.broken, len(listing.files) - len(packed.broken), listing.repair)
    _require_classes(listing, packed.broken)
    index = {
        "broken": packed.broken,
        "classes": listing.classes,
        "credit": listing.credit,
        "image_size": image_size,
        "key": key,
        "repair": listing.repair,
        "source": listing.source,
    }
    seal_index(part, index, shards=len(shards))
    with staged_folder(folder) as staging:
        for name in (INDEX, *packed.files):
            (part / name).rename(staging / name)


def _refuse_broken(broken: Mapping[str, str], whole: int, repair: str) -> None:
    if broken:
        raise InputError(
            f"{len(broken):,} of {whole + len(broken):,} images cannot be read: {list_broken(broken)}.", repair
        )


def _require_classes(listing: Listing, broken: Mapping[str, str]) -> None:
    whole = {(file.split, file.label) for file in listing.files if file.name not in broken}
    for split, label in sorted({(file.split, file.label) for file in listing.files} - whole):
        which = "without a label" if label == UNLABELLED else f"of class {show(listing.classes[label])}"
        raise InputError(
            f"No image {which} in {split} can be read: {list_broken(broken)}.", "mend these files, or remove the class"
        )
