"""What training the baseline and recovering a pruned network have in common.

A seeded loop that keeps the best epoch by validation accuracy: everything that draws random numbers takes the seed, so
that a level made again is the same level.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from edgeprune.data import PackedSplit, iterate_batches
from edgeprune.evaluation import DIVERGED, evaluate_network
from edgeprune.preprocess import Triple

Augment = Callable[[Tensor, torch.Generator], Tensor]
# From a normalised batch (n, 3, height, width), the network's logits and the labels to a scalar.
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


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
    mean: Triple,
    std: Triple,
    loss: Loss,
    lr: Callable[[float], float],
    epochs: int,
    patience: int | None,
    batch_size: int,
    weight_decay: float,
    bn_momentum: float,
    augment: Augment | None,
    seed: int,
    keep: Literal["best", "last"] = "best",
    on_epoch: Callable[[EpochRecord], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Train a copy of a network with AdamW and keep its best epoch by validation accuracy.

    Args:
        network: not changed.
        train, val: splits to learn from and to select on.
        mean, std: normalisation.
        loss: what is minimised.
        lr: learning rate as a function of progress in [0, 1).
        epochs, batch_size: as they say; the last incomplete batch of an epoch is left out.
        patience: stop after this many epochs without a better validation accuracy; None runs them all.
        weight_decay: decoupled, on convolution and linear weights only.
        bn_momentum: of BatchNorm's running statistics while training.
        augment: changes a training batch of pixels in [0, 1], with the generator it is given.
        seed: draws order, augmentation and dropout.
        keep: the best epoch by validation accuracy, or the last one, where the rate ends at zero.
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
        norm.momentum = bn_momentum
    optimiser = torch.optim.AdamW(_parameter_groups(network, weight_decay), lr=lr(0.0))
    generator = torch.Generator().manual_seed(seed)
    batch_size = min(batch_size, len(train.labels))
    steps = len(train.labels) // batch_size
    records: list[EpochRecord] = []
    best: tuple[float, int, dict[str, Tensor]] = (-1.0, 0, {})
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # dropout draws from the global generator
        for epoch in range(1, epochs + 1):
            began = time.perf_counter()
            network.train()
            loss_sum, correct, seen = 0.0, 0, 0
            batches = iterate_batches(
                train, batch_size=batch_size, mean=mean, std=std, generator=generator, augment=augment, drop_last=True
            )
            for step, (images, labels) in enumerate(batches):
                for group in optimiser.param_groups:
                    group["lr"] = lr((epoch - 1 + step / steps) / epochs)
                logits = network(images)
                value = loss(images, logits, labels)
                optimiser.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                loss_sum += float(value.detach()) * len(labels)
                correct += int((logits.detach().argmax(dim=1) == labels).sum())
                seen += len(labels)
                if progress is not None:
                    progress(((epoch - 1) * steps + step + 1) * batch_size, epochs * steps * batch_size)
            evaluation = evaluate_network(network, val, mean=mean, std=std)
            record = EpochRecord(
                epoch=epoch,
                lr=lr((epoch - 1) / epochs),
                train_loss=loss_sum / seen if math.isfinite(loss_sum) else DIVERGED,
                train_accuracy=correct / seen,
                val_loss=evaluation.loss,
                val_accuracy=evaluation.accuracy.value,
                seconds=time.perf_counter() - began,
            )
            records.append(record)
            if on_epoch is not None:
                on_epoch(record)
            if record.val_accuracy > best[0] or keep == "last":
                best = (record.val_accuracy, epoch, copy.deepcopy(network.state_dict()))
            if patience is not None and epoch - best[1] >= patience:
                break
    network.load_state_dict(best[2])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return Fit(network=network.eval(), best_epoch=best[1], epochs=tuple(records))


def warm_up_then_cosine(peak: float, warmup: float) -> Callable[[float], float]:
    """Learning rate over progress in [0, 1): a linear rise over the share ``warmup``, then half a cosine to zero.

    >>> rate = warm_up_then_cosine(1.0, 0.1)
    >>> [round(rate(p), 3) for p in (0.0, 0.1, 0.55)]
    [0.01, 1.0, 0.5]
    """

    def rate(progress: float) -> float:
        if progress < warmup:
            return peak * max(progress / warmup, 0.01)
        return peak * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))

    return rate


def _parameter_groups(network: nn.Module, weight_decay: float) -> Iterator[dict[str, object]]:
    # Decay pulls BatchNorm scales and biases to zero, which regularises nothing and kills channels.
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    yield {"params": decayed, "weight_decay": weight_decay}
    yield {"params": others, "weight_decay": 0.0}
