"""Images decoded once: one uint8 array a split on disk, memory-mapped, replaced whole or left alone.

A cache is a folder with ``train.npy``, ``val.npy``, ``test.npy`` and ``index.json``. The index holds the key (a
digest of everything the pixels depend on), the names, labels and content digests of the images, the digest of each
array and a digest of itself. A cache is used only when all of them agree; otherwise it is made again, and ``say``
hears why.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.data.decode import DECODER_VERSION, BrokenImageError, prepared_decoders, read_image
from edgeprune.data.pack import pack_images
from edgeprune.data.split import SPLITS, Listing, show
from edgeprune.errors import InputError
from edgeprune.files import digest_file, digest_json, read_json, staged_folder, write_json

if TYPE_CHECKING:
    import numpy as np

_INDEX = "index.json"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedSplit:
    """The images of one split, decoded.

    Attributes:
        name: ``train``, ``val`` or ``test``.
        images: uint8, shape (n, size, size, 3), RGB, read-only and memory-mapped.
        labels: int64, shape (n,), indices into the classes.
        names: n paths below the source's folder, sorted.
    """

    name: str
    images: "np.ndarray"
    labels: "np.ndarray"
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedCache:
    """What a cache folder holds.

    Attributes:
        splits: split name to images.
        contents: image name to the SHA-256 of its file.
        broken: name to reason, of the files that were left out.
    """

    splits: dict[str, PackedSplit]
    contents: dict[str, str]
    broken: dict[str, str]


class _UnusableError(Exception):
    """Why a cache must be made again."""


def load_packed(
    listing: Listing,
    *,
    image_size: int,
    skip_broken: bool,
    folder: Path,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] | None = None,
) -> PackedCache:
    """Open the cache of a listing, and make it first when it is missing, stale or damaged.

    Args:
        listing: the images.
        image_size: height and width, pixels.
        skip_broken: leave broken files out instead of raising.
        folder: where the cache is or will be.
        say: hears one sentence when a cache is made, and why an old one was not used.
        progress: images done and in total, while decoding.

    Raises:
        InputError: files are broken and ``skip_broken`` is off, or the cache cannot be written.
    """
    key = _compute_key(listing, image_size)
    if folder.exists():
        try:
            cache = _open_cache(folder, key)
            _retry_broken(listing, cache, image_size)
        except _UnusableError as reason:
            say(f"The image cache {show(folder)} {reason}: decoding again.")
        else:
            _judge_broken(cache.broken, listing, skip_broken)
            return cache
    say(f"Decoding {len(listing.files):,} images of {listing.source} to {image_size} x {image_size} pixels, once.")
    try:
        with staged_folder(folder) as staging:
            splits, broken = pack_images(listing.files, staging, image_size=image_size, progress=progress)
            _judge_broken(broken, listing, skip_broken)
            index = {"broken": broken, "key": key, "splits": splits}
            write_json(staging / _INDEX, {"digest": digest_json(index), "index": index})
    except OSError as error:
        raise InputError(
            f"The image cache {show(folder)} cannot be written: {error.strerror or error}.",
            f"free {len(listing.files) * image_size * image_size * 3 / 1e6:.0f} MB there, or allow writing to it",
        ) from None
    return _open_cache(folder, key)


def _compute_key(listing: Listing, image_size: int) -> str:
    # Imported here because Pillow belongs to an extra.
    import PIL

    files: list[list[Any]] = []
    for file in listing.files:
        try:
            status = file.path.stat()
            files.append([file.name, file.label, file.split, status.st_size, status.st_mtime_ns])
        except OSError:
            files.append([file.name, file.label, file.split, "unreadable"])
    return digest_json(
        {
            "classes": listing.classes,
            "decoder": [DECODER_VERSION, PIL.__version__],
            "files": files,
            "image_size": image_size,
        }
    )


def _open_cache(folder: Path, key: str) -> PackedCache:
    import numpy as np

    try:
        sealed = read_json(folder / _INDEX)
        index = sealed["index"]
        if digest_json(index) != sealed["digest"]:
            raise _UnusableError(f"is damaged ({_INDEX} digest differs)")
    except (InputError, OSError, KeyError, TypeError, ValueError):
        raise _UnusableError(f"is damaged ({_INDEX} is missing or unreadable)") from None
    if index["key"] != key:
        raise _UnusableError("is stale (the images or the decoder changed)")
    paths = [folder / f"{split}.npy" for split in SPLITS]
    try:
        with ThreadPoolExecutor(len(paths)) as pool:
            digests = list(pool.map(digest_file, paths))
    except OSError as error:
        raise _UnusableError(f"is damaged ({error.strerror or error})") from None
    splits = {}
    contents: dict[str, str] = {}
    for split, path, digest in zip(SPLITS, paths, digests, strict=True):
        entry = index["splits"][split]
        if digest != entry["digest"]:
            raise _UnusableError(f"is damaged ({path.name} digest differs)")
        splits[split] = PackedSplit(
            name=split,
            images=np.load(path, mmap_mode="r", allow_pickle=False),
            labels=np.array(entry["labels"], dtype=np.int64),
            names=tuple(entry["names"]),
        )
        contents.update(zip(entry["names"], entry["contents"], strict=True))
    return PackedCache(splits=splits, contents=contents, broken=dict(index["broken"]))


def _retry_broken(listing: Listing, cache: PackedCache, image_size: int) -> None:
    # Neither size nor time change when a permission is mended or a disk comes back, so the key cannot tell.
    with prepared_decoders():
        for file in listing.files:
            if file.name in cache.broken:
                try:
                    read_image(file.path, image_size)
                except BrokenImageError:
                    continue
                raise _UnusableError(f"is stale ({show(file.name)}, left out before, can be read now)")


def _judge_broken(broken: dict[str, str], listing: Listing, skip_broken: bool) -> None:
    if broken and not skip_broken:
        raise InputError(
            f"{len(broken):,} of {len(listing.files):,} images cannot be read: {list_broken(broken)}.", listing.repair
        )
    whole = {(file.split, file.label) for file in listing.files if file.name not in broken}
    for split, label in sorted({(file.split, file.label) for file in listing.files} - whole):
        raise InputError(
            f"No image of class {show(listing.classes[label])} in {split} can be read: {list_broken(broken)}.",
            "mend these files, or remove the class",
        )


def list_broken(broken: dict[str, str]) -> str:
    """The first few broken files with their reasons, and how many more there are."""
    first = "; ".join(f"{show(name)} ({reason})" for name, reason in list(broken.items())[:5])
    return first + (f"; and {len(broken) - 5:,} more" if len(broken) > 5 else "")
