"""Batches in which an image is put together from two, and its label too: mixup, and pasting."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# Sides of a pasted image as shares of the side: what it shows is still seen, and most of the other image too.
_PASTED_SIDE = (0.35, 0.7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """A mixed batch of n images.

    Attributes:
        images: shape (n, 3, height, width).
        order: positions of each image's partner, shape (n,).
        share: of the own image in each, in [0, 1], shape (n, 1).
    """

    images: Tensor
    order: Tensor
    share: Tensor

    def mix(self, shares: Tensor) -> Tensor:
        """Shares of the classes after mixing, from those of the batch's own images; both of shape (n, classes)."""
        return torch.lerp(shares[self.order], shares, self.share)


def mix_images(images: Tensor, order: Tensor, *, alpha: float) -> Mixture:
    """Mix a batch with itself in another order, in one proportion for the whole batch: half or more is the own image.

    Args:
        images: normalised, shape (n, 3, height, width); left as it is.
        order: positions of each image's partner, shape (n,).
        alpha: > 0; the proportion is drawn from Beta(alpha, alpha): near 0 or 1 for a small one, near a half for a
            large one. From the global generator, which a fit has seeded.

    Source:
        Zhang, Cisse, Dauphin, Lopez-Paz 2018, "mixup: Beyond Empirical Risk Minimization", section 2.
    """
    drawn = float(torch.distributions.Beta(alpha, alpha).sample())
    share = max(drawn, 1 - drawn)
    mixed = torch.lerp(images[order], images, share).contiguous(memory_format=torch.channels_last)
    return Mixture(images=mixed, order=order, share=torch.full((len(images), 1), share))


def paste_images(images: Tensor, *, fraction: float, generator: torch.Generator) -> Mixture:
    """Paste a shrunk image of the batch somewhere onto some of the others; labels count by area.

    What is pasted is whole but small, as things are in a wide scene. One size is drawn for the batch.

    Args:
        images: normalised, shape (n, 3, height, width); left as it is.
        fraction: of the images get one pasted on, in [0, 1].
        generator: draws who gets whom, the size and the places.

    Source:
        Qin et al. 2020, "ResizeMix: Mixing Data with Preserved Object Information and True Labels", section 3.
    """
    n, _, height, width = images.shape
    low, high = _PASTED_SIDE
    side = low + (high - low) * float(torch.rand(1, generator=generator))
    rows, columns = max(round(side * height), 1), max(round(side * width), 1)
    order = torch.randperm(n, generator=generator)
    count = round(fraction * n)
    small = functional.interpolate(images[order[:count]], (rows, columns), mode="bilinear", antialias=True)
    tops = torch.randint(0, height - rows + 1, (count,), generator=generator).tolist()
    lefts = torch.randint(0, width - columns + 1, (count,), generator=generator).tolist()
    pasted = images.clone(memory_format=torch.preserve_format)
    for index, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        pasted[index, :, top : top + rows, left : left + columns] = small[index]
    share = torch.ones(n, 1)
    share[:count] = 1 - rows * columns / (height * width)
    return Mixture(images=pasted, order=order, share=share)
