"""A seeded training loop that keeps the best epoch by validation accuracy."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.data import PackedSplit, iterate_batches
from edgeprune.evaluation import DIVERGED, evaluate_network
from edgeprune.learning.averaging import WeightAverage
from edgeprune.learning.mixup import mix_images
from edgeprune.learning.watching import watch_outputs
from edgeprune.preprocess import Triple

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One training step of n images, as a loss sees it.

    Attributes:
        images: augmented and normalised, shape (n, 3, height, width).
        rows: their positions in the training split, shape (n,).
        labels: class indices, shape (n,); of mixed images the shares of the classes, shape (n, classes).
        logits: the network's, shape (n, classes).
        outputs: what the watched modules gave, by name.
    """

    images: Tensor
    rows: Tensor
    labels: Tensor
    logits: Tensor
    outputs: Mapping[str, Tensor]


Loss = Callable[[Step], Tensor]  # gives a scalar


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


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One epoch: mean loss in nats and accuracy on the augmented training batches and on validation; wall seconds."""

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
    """

    network: nn.Module
    best_epoch: int
    epochs: tuple[EpochRecord, ...]


def fit_network(
    network: nn.Module,
    *,
    train: PackedSplit,
    val: PackedSplit,
    loss: Loss,
    settings: FitSettings,
    watch: Sequence[str] = (),
    on_epoch: Callable[[EpochRecord], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Train a copy of a network with AdamW and keep its best epoch by validation accuracy.

    Args:
        network: not changed.
        train, val: splits to learn from and to select on.
        loss: what is minimised.
        settings: everything else that decides the result.
        watch: names of modules whose outputs the loss reads.
        on_epoch: called after each epoch.
        progress: called with images done and images in all.

    Returns:
        The kept epoch's network in evaluation mode, and all epochs.

    Source:
        Loshchilov, Hutter 2019, "Decoupled Weight Decay Regularization".
    """
    network = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = settings.bn_momentum
    average = WeightAverage(network, settings.ema) if settings.ema else None
    judged = average.network if average is not None else network
    records: list[EpochRecord] = []
    best: tuple[float, int, dict[str, Tensor]] = (-1.0, 0, {})
    with torch.random.fork_rng(), watch_outputs(network, watch) as outputs:
        torch.manual_seed(settings.seed)  # dropout and mixtures draw from the global generator
        trainer = _Trainer(network, train, loss, settings, average, outputs, progress)
        for epoch in range(1, settings.epochs + 1):
            began = time.perf_counter()
            train_loss, train_accuracy = trainer.run_epoch(epoch)
            evaluation = evaluate_network(judged, val, mean=settings.mean, std=settings.std)
            record = EpochRecord(
                epoch=epoch,
                lr=settings.lr((epoch - 1) / settings.epochs),
                train_loss=train_loss if math.isfinite(train_loss) else DIVERGED,
                train_accuracy=train_accuracy,
                val_loss=evaluation.loss,
                val_accuracy=evaluation.accuracy.value,
                seconds=time.perf_counter() - began,
            )
            records.append(record)
            if on_epoch is not None:
                on_epoch(record)
            if record.val_accuracy > best[0] or settings.keep == "last":
                best = (record.val_accuracy, epoch, copy.deepcopy(judged.state_dict()))
            if settings.patience is not None and epoch - best[1] >= settings.patience:
                break
    network.load_state_dict(best[2])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return Fit(network=network.eval(), best_epoch=best[1], epochs=tuple(records))


class _Trainer:
    """The steps of one fit: optimiser, generator, and what each epoch does with them."""

    def __init__(  # noqa: PLR0917
        self,
        network: nn.Module,
        train: PackedSplit,
        loss: Loss,
        settings: FitSettings,
        average: WeightAverage | None,
        outputs: Mapping[str, Tensor],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._network, self._loss, self._settings = network, loss, settings
        self._average, self._outputs, self._progress = average, outputs, progress
        self._labels = torch.from_numpy(np.array(train.labels))
        # Batches then come with their rows, which say more than their labels.
        self._train = replace(train, labels=np.arange(len(train.labels)))
        self._batch_size = min(settings.batch_size, len(train.labels))
        self._steps = len(train.labels) // self._batch_size
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._optimiser = torch.optim.AdamW(_parameter_groups(network, settings.weight_decay), lr=settings.lr(0.0))

    def run_epoch(self, epoch: int) -> tuple[float, float]:
        """Go through the images once; mean loss and accuracy."""
        settings, steps, batch_size = self._settings, self._steps, self._batch_size
        self._network.train()
        loss_sum, correct = 0.0, 0
        batches = iterate_batches(
            self._train,
            batch_size=batch_size,
            mean=settings.mean,
            std=settings.std,
            generator=self._generator,
            augment=settings.augment,
            drop_last=True,
        )
        for step, (images, rows) in enumerate(batches):
            for group in self._optimiser.param_groups:
                group["lr"] = settings.lr((epoch - 1 + step / steps) / settings.epochs)
            value, right = self._take_step(images, rows)
            loss_sum += value * batch_size
            correct += right
            if self._progress is not None:
                self._progress(((epoch - 1) * steps + step + 1) * batch_size, settings.epochs * steps * batch_size)
        return loss_sum / (steps * batch_size), correct / (steps * batch_size)

    def _take_step(self, images: Tensor, rows: Tensor) -> tuple[float, int]:
        labels = shares = self._labels[rows]
        if self._settings.mixup:
            mixture = mix_images(images, labels, alpha=self._settings.mixup, generator=self._generator)
            images = mixture.images
        logits = self._network(images)
        if self._settings.mixup:
            shares = mixture.shares(labels, logits.shape[1])
        value = self._loss(Step(images=images, rows=rows, labels=shares, logits=logits, outputs=self._outputs))
        self._optimiser.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        if self._average is not None:
            self._average.update(self._network)
        return float(value.detach()), int((logits.detach().argmax(dim=1) == labels).sum())


def _parameter_groups(network: nn.Module, weight_decay: float) -> Iterator[dict[str, object]]:
    # Decay pulls BatchNorm scales and biases to zero, which regularises nothing and kills channels.
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    yield {"params": decayed, "weight_decay": weight_decay}
    yield {"params": others, "weight_decay": 0.0}
