"""Mixup: batches in which every image is a weighted sum of two, and its label too."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """A mixed batch of n images.

    Attributes:
        images: ``share`` of the batch's own images and ``1 - share`` of their partners, shape (n, 3, height, width).
        partners: labels of the partners, shape (n,).
        share: in [0.5, 1], so that the own label is the one that counts as right.
    """

    images: Tensor
    partners: Tensor
    share: float

    def shares(self, labels: Tensor, classes: int) -> Tensor:
        """Shares of the classes, shape (n, classes), from the batch's own labels; rows sum to 1."""
        own, other = (functional.one_hot(indices, classes).float() for indices in (labels, self.partners))
        return torch.lerp(other, own, self.share)


def mix_images(images: Tensor, labels: Tensor, *, alpha: float, generator: torch.Generator) -> Mixture:
    """Mix a batch with itself in another order, in one proportion for the whole batch.

    Args:
        images: normalised, shape (n, 3, height, width); left as it is.
        labels: class indices, shape (n,).
        alpha: > 0; the proportion is drawn from Beta(alpha, alpha): near 0 or 1 for a small one, near a half for a
            large one. From the global generator, which a fit has seeded.
        generator: draws the order.

    Source:
        Zhang, Cisse, Dauphin, Lopez-Paz 2018, "mixup: Beyond Empirical Risk Minimization", section 2.
    """
    drawn = float(torch.distributions.Beta(alpha, alpha).sample())
    share = max(drawn, 1 - drawn)
    order = torch.randperm(len(labels), generator=generator)
    mixed = torch.lerp(images[order], images, share).contiguous(memory_format=torch.channels_last)
    return Mixture(images=mixed, partners=labels[order], share=share)
