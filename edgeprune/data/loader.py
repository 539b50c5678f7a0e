"""From a packed split to the batches that a network reads."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from edgeprune.data.cache import PackedSplit
from edgeprune.data.split import hash_name
from edgeprune.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

    Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]

Batch = TypeVar("Batch")


def iterate_batches(
    split: PackedSplit,
    *,
    batch_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    generator: "torch.Generator | None" = None,
    augment: "Augment | None" = None,
    augment_generator: "torch.Generator | None" = None,
    drop_last: bool = False,
    part: tuple[int, int] = (0, 1),
    device: str = "cpu",
) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
    """Go through a split once, in batches of normalised images with their labels.

    Args:
        split: n images of size × size pixels.
        batch_size: images a batch; the last one may be smaller.
        mean, std: one value a channel, in units of [0, 1] pixels.
        generator: given: the order is shuffled, and the same state gives the same batches; else the order of the
            split. Inside a shuffled batch images stand in the order of the split, which reads the disk forwards.
        augment: changes images in [0, 1] before they are normalised; draws from ``augment_generator``.
        augment_generator: ``generator`` when None. Processes that share batches draw one order, each its own changes.
        drop_last: leave out a last batch that is smaller, because batch normalisation cannot train on one image.
        part: (k, m) of every batch gives images k, k + m, ..., so that m processes have all of it.
        device: where images go, as bytes; they are changed and normalised there.

    Yields:
        Images, float32, shape (b, 3, size, size), ``torch.channels_last``, by the arithmetic of
        ``normalise_pixels``, on ``device``; and labels, int64, shape (b,), on the CPU.

    Raises:
        InputError: ``drop_last`` leaves nothing.
        ValueError: ``augment`` without a generator.
    """
    n = len(split.labels)
    if augment is not None and generator is None:
        raise ValueError("augment draws from a generator, and none was given")
    if drop_last and n < batch_size:
        raise InputError(
            f"The {split.name} split has {n} images, fewer than batch_size ({batch_size}).",
            f"a batch_size of at most {n}, or more images",
        )
    # Checked here, not at the first batch: what follows is a generator.
    return _iterate(
        split, batch_size, mean, std, generator, augment, augment_generator or generator, drop_last, part, device
    )


def _iterate(  # noqa: PLR0917
    split: PackedSplit,
    batch_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    generator: "torch.Generator | None",
    augment: "Augment | None",
    augment_generator: "torch.Generator | None",
    drop_last: bool,
    part: tuple[int, int],
    device: str,
) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
    import numpy as np
    import torch

    n = len(split.labels)
    order = np.arange(n) if generator is None else torch.randperm(n, generator=generator).numpy()
    # In float32 throughout, as normalise_pixels does, so that the two agree to the last bit.
    deviation = np.asarray(std, dtype=np.float32)
    # One value for each number of a row of pixels: over three at a time, arithmetic is three times as slow.
    size = split.images.shape[2]
    shift = torch.from_numpy(np.asarray(mean, dtype=np.float32) / deviation).repeat(size).to(device)
    scale = torch.from_numpy(1.0 / ((1.0 if augment else 255.0) * deviation)).repeat(size).to(device)
    for start in range(0, n - batch_size + 1 if drop_last else n, batch_size):
        rows = np.sort(order[start : start + batch_size])[part[0] :: part[1]]
        pixels = torch.from_numpy(np.asarray(split.images[rows]))
        if device.startswith("cuda"):
            # Only from pinned memory does a copy run beside what the GPU computes.
            pixels = pixels.pin_memory()
        # Stays (b, size, size, 3) in memory; channels first is only a view of it, which is channels_last.
        images = pixels.to(device, non_blocking=True).float()
        if augment is not None and augment_generator is not None:
            images = augment(images.div_(255).permute(0, 3, 1, 2), augment_generator).permute(0, 2, 3, 1)
        images = images.flatten(2).mul_(scale).sub_(shift).view(images.shape).permute(0, 3, 1, 2)
        yield images.contiguous(memory_format=torch.channels_last), torch.from_numpy(split.labels[rows])


def run_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches in the same order, each made in another thread while the one before it is worked on.

    What makes them is never run by two threads at once, and no more than one batch waits; it must not share a random
    generator with whoever works on them.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def sample_images(split: PackedSplit, count: int, seed: int) -> "np.ndarray":
    """Some images of a split, for calibration, probes and golden vectors.

    Args:
        split: n images.
        count: how many; all of them when the split has fewer.
        seed: another seed, another choice. The choice is by hash, so it needs no library's random generator, and a
            larger count keeps the images of a smaller one.

    Returns:
        uint8, shape (min(count, n), size, size, 3), in an order that mixes the classes.
    """
    import numpy as np

    chosen = sorted(range(len(split.names)), key=lambda row: hash_name(split.names[row], f"sample-{seed}"))[:count]
    return np.asarray(split.images[chosen])
