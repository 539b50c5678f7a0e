"""Decode images with every core into shards of bounded size; one that is finished is not made again."""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.data.decode import BrokenImageError, decode_content, prepared_decoders, read_image
from edgeprune.data.shard_plan import Shard, name_array, name_record
from edgeprune.data.split import ImageFile, Listing
from edgeprune.errors import InputError
from edgeprune.files import digest_file, read_json, write_json

if TYPE_CHECKING:
    import numpy as np

# Images that are being decoded or wait to be written, bytes; at least one a core. An interrupt waits for them too.
_WAITING_BYTES = 64_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What packing left in its folder.

    Attributes:
        files: names of all arrays and records.
        broken: reasons of broken files by name.
    """

    files: tuple[str, ...]
    broken: dict[str, str]


def pack_shards(
    listing: Listing,
    shards: Sequence[Shard],
    folder: Path,
    *,
    image_size: int,
    older: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Packed:
    """Write the arrays and the record of every shard that is not there yet; memory stays flat.

    Args:
        listing: the images.
        shards: how they are cut.
        folder: gets arrays of uint8, shape (n, image_size, image_size, 3), n leaving broken files out, and for each
            shard a record of their rows. What it has of an interrupted packing is kept when keys and digests agree.
        image_size: height and width, pixels.
        older: a cache of other images or labels; shards of it that are the same are taken over.
        progress: images done and in total.

    Raises:
        OSError: the arrays cannot be written.
    """
    broken: dict[str, str] = {}
    files: list[str] = []
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(listing.files))

    with prepared_decoders(), ThreadPoolExecutor(cpu_count() or 1) as pool:
        for shard in shards:
            record = _find_finished(shard, (folder, older), folder)
            if record is None:
                contents = listing.stream.read(shard.files) if listing.stream else (file.path for file in shard.files)
                record = _decode_shard(shard, contents, folder, image_size, pool, count)
                if listing.stream:
                    record["position"] = listing.stream.position()
            else:
                if listing.stream:
                    listing.stream.go_on(record["position"])
                for _ in shard.files:
                    count()
            _write_labels(shard, record)
            write_json(folder / name_record(shard.number), record)
            files += [name_record(shard.number), *(name_array(shard.number, split) for split in record["splits"])]
            broken |= record["broken"]
    return Packed(files=tuple(files), broken=broken)


def _find_finished(shard: Shard, places: Sequence[Path], folder: Path) -> dict[str, Any] | None:
    """The record of a shard that was packed before, its arrays now in ``folder``."""
    for place in places:
        try:
            record: dict[str, Any] = read_json(place / name_record(shard.number))
            # A mended permission changes no key: what was broken is tried again.
            if record["key"] != shard.key or record["broken"]:
                continue
            for split, part in record["splits"].items():
                array = name_array(shard.number, split)
                if digest_file(place / array) != part["digest"]:
                    raise ValueError
                if place != folder:
                    (folder / array).unlink(missing_ok=True)
                    _link(place / array, folder / array)
        except (InputError, OSError, KeyError, TypeError, ValueError):
            continue
        return record
    return None


def _link(old: Path, new: Path) -> None:
    try:
        new.hardlink_to(old)
    except OSError:  # not every file system has links
        shutil.copyfile(old, new)


def _decode_shard(  # noqa: PLR0917
    shard: Shard,
    contents: "Iterable[Path | bytes | None]",
    folder: Path,
    image_size: int,
    pool: ThreadPoolExecutor,
    count: Callable[[], None],
) -> dict[str, Any]:
    broken: dict[str, str] = {}
    splits: dict[str, dict[str, Any]] = {}
    with ExitStack() as arrays:
        append: dict[str, Callable[[np.ndarray], None]] = {}
        for file, outcome in _decode_all(shard.files, contents, image_size, pool):
            if isinstance(outcome, BrokenImageError):
                broken[file.name] = str(outcome)
            else:
                pixels, content = outcome
                if file.split not in append:
                    array = _grow_array(folder / name_array(shard.number, file.split), image_size)
                    append[file.split] = arrays.enter_context(array)
                    splits[file.split] = {"contents": [], "names": []}
                append[file.split](pixels)
                splits[file.split]["contents"].append(content)
                splits[file.split]["names"].append(file.name)
            count()
    for split, part in splits.items():
        part["digest"] = digest_file(folder / name_array(shard.number, split))
    return {"broken": broken, "key": shard.key, "splits": splits}


def _write_labels(shard: Shard, record: dict[str, Any]) -> None:
    # Labels come from the listing even where pixels are taken over: other labels are no reason to decode again.
    files = {file.name: file for file in shard.files}
    for part in record["splits"].values():
        rows = [files[name] for name in part["names"]]
        part["labels"] = [file.label for file in rows]
        part["soft"] = [file.soft.hex() if file.soft else None for file in rows]
        part["weights"] = [file.weight for file in rows]


def _decode_all(
    files: Sequence[ImageFile], contents: "Iterable[Path | bytes | None]", image_size: int, pool: ThreadPoolExecutor
) -> "Iterator[tuple[ImageFile, tuple[np.ndarray, str] | BrokenImageError]]":
    """Every file with its pixels and digest, or with what is wrong, in order."""

    def attempt(content: Path | bytes | None) -> "tuple[np.ndarray, str] | BrokenImageError":
        try:
            return read_image(content, image_size) if isinstance(content, Path) else decode_content(content, image_size)
        except BrokenImageError as error:
            return error

    # Threads are enough: Pillow lets go of the interpreter while it decodes and resizes.
    cores = cpu_count() or 1
    most = max(cores, min(16 * cores, _WAITING_BYTES // (image_size * image_size * 3)))
    waiting: deque[Any] = deque()
    for file, content in zip(files, contents, strict=True):
        waiting.append((file, pool.submit(attempt, content)))
        if len(waiting) == most:
            first, outcome = waiting.popleft()
            yield first, outcome.result()
    while waiting:
        first, outcome = waiting.popleft()
        yield first, outcome.result()


@contextmanager
def _grow_array(path: Path, image_size: int) -> "Iterator[Callable[[np.ndarray], None]]":
    """Write a uint8 .npy file image by image, for a number of images that is known only at the end.

    Plain writes, not a memory map: on a full disk they raise, where a map kills the process.
    """
    from numpy.lib.format import write_array_header_1_0

    rows = 0

    def append(pixels: "np.ndarray") -> None:
        nonlocal rows
        file.write(pixels.tobytes())
        rows += 1

    def write_header() -> int:
        # numpy pads the header so that the first dimension can grow without moving the data.
        shape = (rows, image_size, image_size, 3)
        write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        return file.tell()

    # An older file of this name may be linked into a cache that is in use.
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        start = write_header()
        yield append
        file.seek(0)
        if write_header() != start:
            raise RuntimeError(f"{path} has a header of another length than reserved")
        file.flush()
        os.fsync(file.fileno())
