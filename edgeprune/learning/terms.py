"""What a fit is told, and what it tells."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from edgeprune.preprocess import Triple

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One training step of n images, as a loss sees it.

    Attributes:
        images: augmented and normalised, shape (n, 3, height, width).
        rows: their positions in the training split, shape (n,).
        labels: class indices, shape (n,); where images are mixed, or labels are weighted, soft or missing, the shares
            of the classes, shape (n, classes), whose rows sum to the label's weight.
        logits: the network's, shape (n, classes).
        outputs: what the watched modules gave, by name.
    """

    images: Tensor
    rows: Tensor
    labels: Tensor
    logits: Tensor
    outputs: Mapping[str, Tensor]


Loss = Callable[[Step], Tensor]  # gives a scalar


class Memory(Protocol):
    """What a loss remembers from step to step."""

    def state(self) -> dict[str, Tensor]:
        """All of it, by name."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Remember what another one did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How a network is fitted, whatever the loss.

    Attributes:
        mean, std: normalisation.
        lr: learning rate as a function of progress in [0, 1).
        epochs, batch_size: as they say; the last incomplete batch of an epoch is left out.
        patience: stop after this many epochs without a better validation accuracy, wherever ``lr`` is by then; None
            runs them all.
        weight_decay: decoupled, on convolution and linear weights only.
        bn_momentum: of BatchNorm's running statistics while training.
        augment: changes a training batch of pixels in [0, 1], with the generator it is given.
        seed: draws order, augmentation, mixtures and dropout.
        keep: the best epoch by validation accuracy, or the last one, where the rate ends at zero.
        ema: decay a step of an average of the weights that is judged and kept in place of them; 0 keeps the weights.
        mixup: parameter of the Beta distribution that images are mixed by; 0 mixes none.
        paste: share of the images that another one is pasted onto.
        labelled_share: see ``rows_of_epoch``.
    """

    mean: Triple
    std: Triple
    lr: Callable[[float], float]
    epochs: int
    patience: int | None
    batch_size: int
    weight_decay: float
    bn_momentum: float
    augment: Augment | None
    seed: int
    keep: Literal["best", "last"] = "best"
    ema: float = 0.0
    mixup: float = 0.0
    paste: float = 0.0
    labelled_share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One epoch: mean loss in nats and accuracy on the augmented training batches and on validation; wall seconds.

    Training accuracy is that of the labelled images; 0 where there are none.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fitted network: the copy from the best epoch, in evaluation mode, and how every epoch went.

    Attributes:
        network: a new module.
        best_epoch: counted from 1; the first of equals.
        epochs: all that were run.
        resumed_after: how many of them an earlier process had run.
    """

    network: nn.Module
    best_epoch: int
    epochs: tuple[EpochRecord, ...]
    resumed_after: int = 0

    @property
    def seconds_before(self) -> float:
        """Wall time of the epochs that an earlier process had run."""
        return sum(record.seconds for record in self.epochs[: self.resumed_after])
