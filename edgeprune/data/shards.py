"""Images of one split in many files, indexed as if they were one array."""

import resource
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgeprune.errors import EdgepruneError

if TYPE_CHECKING:
    import numpy as np


class Images(Protocol):
    """What a split's images are: an array, or what is indexed like one along its first axis."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, size, size, 3)."""

    @property
    def dtype(self) -> "np.dtype[Any]":
        """uint8."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...

    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> "np.ndarray": ...


class ShardedImages:
    """Arrays of equal images on disk, memory-mapped when they are read, in one row of numbers.

    Args:
        paths: .npy files of uint8, shape (rows, size, size, 3), one row at least in each.
        rows: how many each has.
        image_size: height and width, pixels.

    Raises:
        EdgepruneError: when an array is opened that has been replaced since.
    """

    def __init__(self, paths: Sequence[Path], rows: Sequence[int], *, image_size: int) -> None:
        import numpy as np

        self._starts = np.cumsum([0, *rows])
        stamps = {path: _stamp(path) for path in paths}
        self.shape = (int(self._starts[-1]), image_size, image_size, 3)
        self.dtype = np.dtype(np.uint8)
        self._paths = tuple(paths)
        # A map holds a file open, and a process may hold few: 1024 on most Linux, 256 on macOS. There are three splits.
        self._open = lru_cache(max(8, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))(
            lambda path: _open_array(path, stamps[path])
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> "np.ndarray":
        """One image for a number; a new array for a slice or a sequence of numbers, negative ones from the end."""
        import numpy as np

        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            return self._gather(np.arange(start, stop, step)) if step != 1 else self._copy_range(start, stop)
        wanted = np.asarray(rows)
        if wanted.size == 0:
            wanted = wanted.astype(np.int64)
        if wanted.dtype.kind not in "iu" or wanted.ndim > 1:
            raise IndexError(f"images are indexed by whole numbers, not by {wanted.dtype} of shape {wanted.shape}")
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"row {rows} is outside the {len(self)} images")
        if wanted.ndim == 0:
            shard = int(np.searchsorted(self._starts, wanted, side="right")) - 1
            image: np.ndarray = self._open(self._paths[shard])[int(wanted) - int(self._starts[shard])]
            return image
        return self._gather(wanted)

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> "np.ndarray":
        if copy is False:
            raise ValueError("images in many files become one array only by copying")
        images = self._copy_range(0, len(self))
        return images if dtype is None else images.astype(dtype)

    def _gather(self, rows: "np.ndarray") -> "np.ndarray":
        import numpy as np

        images = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        # Sorted rows, as batches have them, lie in one run for each shard; others in more, which is only slower.
        cuts = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist(), len(rows)] if len(rows) else []
        for first, last in pairwise(cuts):
            shard = int(shards[first])
            np.take(
                self._open(self._paths[shard]),
                rows[first:last] - self._starts[shard],
                axis=0,
                out=images[first:last],
                mode="clip",  # in range already; "raise" would go through a copy
            )
        return images

    def _copy_range(self, start: int, stop: int) -> "np.ndarray":
        import numpy as np

        images = np.empty((max(stop - start, 0), *self.shape[1:]), dtype=np.uint8)
        for path, (first, last) in zip(self._paths, pairwise(self._starts.tolist()), strict=True):
            low, high = max(start, first), min(stop, last)
            if low < high:
                images[low - start : high - start] = self._open(path)[low - first : high - first]
        return images


class ImagesByRow:
    """Some images of others, or some more than once, without copying them.

    Args:
        images: all of them.
        rows: positions of those meant, shape (n,).
    """

    def __init__(self, images: Images, rows: "np.ndarray") -> None:
        self._images, self._rows = images, rows
        self.shape, self.dtype = (len(rows), *images.shape[1:]), images.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> "np.ndarray":
        """One image for a number; a new array for a slice or a sequence of numbers."""
        import numpy as np

        return np.asarray(self._images[self._rows[rows]])

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> "np.ndarray":
        if copy is False:
            raise ValueError("chosen images become one array only by copying")
        return self[:] if dtype is None else self[:].astype(dtype)


def open_images(paths: Sequence[Path], rows: Sequence[int], *, image_size: int) -> Images:
    """The images of some files, read-only; of a single one the memory map itself."""
    import numpy as np

    if len(paths) == 1:
        mapped: Images = np.load(paths[0], mmap_mode="r", allow_pickle=False)
        return mapped
    return ShardedImages(paths, rows, image_size=image_size)


def _open_array(path: Path, stamp: tuple[int, ...]) -> "np.ndarray":
    import numpy as np

    try:
        # As a plain array: every slice of a memmap pays for being one.
        images: np.ndarray = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        if _stamp(path) == stamp:
            return images
    except FileNotFoundError:
        pass
    # Labels and rows are those of the images that were there at first.
    raise EdgepruneError(
        f"{path.parent} was made anew by another process while this one used it.", "the same command, which goes on"
    )


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size
