"""Decode images with every core into one array a split, written as it grows."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.data.decode import BrokenImageError, prepared_decoders, read_image
from edgeprune.data.split import SPLITS, ImageFile
from edgeprune.files import digest_file

if TYPE_CHECKING:
    import numpy as np

# Decoded rows waiting to be written, bytes: enough to keep every core busy, small beside any machine's memory.
_WAITING_BYTES = 64_000_000


def pack_images(
    files: Sequence[ImageFile], folder: Path, *, image_size: int, progress: Callable[[int, int], None] | None = None
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Write ``train.npy``, ``val.npy`` and ``test.npy``; memory stays flat however many images there are.

    Args:
        files: images in the order they are stored within their split.
        folder: gets arrays of uint8, shape (n, image_size, image_size, 3), n leaving broken files out.
        image_size: height and width, pixels.
        progress: images done and in total.

    Returns:
        For each split the ``names``, ``labels`` and ``contents`` (SHA-256 of the file) of its rows and the ``digest``
        of its array; and the reasons of broken files by name.

    Raises:
        OSError: the arrays cannot be written.
    """
    broken: dict[str, str] = {}
    splits: dict[str, dict[str, Any]] = {}
    done = 0
    with prepared_decoders(), ThreadPoolExecutor(cpu_count() or 1) as pool:
        for split in SPLITS:
            path = folder / f"{split}.npy"
            entry: dict[str, Any] = {"contents": [], "labels": [], "names": []}
            with _grow_array(path, image_size) as append:
                for file, outcome in _decode_all([file for file in files if file.split == split], image_size, pool):
                    if isinstance(outcome, BrokenImageError):
                        broken[file.name] = str(outcome)
                    else:
                        pixels, content = outcome
                        append(pixels)
                        entry["contents"].append(content)
                        entry["labels"].append(file.label)
                        entry["names"].append(file.name)
                    done += 1
                    if progress is not None:
                        progress(done, len(files))
            splits[split] = entry | {"digest": digest_file(path)}
    return splits, broken


def _decode_all(
    files: Sequence[ImageFile], image_size: int, pool: ThreadPoolExecutor
) -> "Iterator[tuple[ImageFile, tuple[np.ndarray, str] | BrokenImageError]]":
    """Every file with its pixels and digest, or with what is wrong, in order."""

    def attempt(file: ImageFile) -> "tuple[np.ndarray, str] | BrokenImageError":
        try:
            return read_image(file.path, image_size)
        except BrokenImageError as error:
            return error

    # Threads are enough: Pillow lets go of the interpreter while it decodes and resizes.
    step = max(16, _WAITING_BYTES // (image_size * image_size * 3))
    for start in range(0, len(files), step):
        part = files[start : start + step]
        # Closing this generator, as an interrupt does, closes map's own, and that cancels what is queued.
        yield from zip(part, pool.map(attempt, part), strict=True)


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

    with path.open("wb") as file:
        start = write_header()
        yield append
        file.seek(0)
        if write_header() != start:
            raise RuntimeError(f"{path} has a header of another length than reserved")
