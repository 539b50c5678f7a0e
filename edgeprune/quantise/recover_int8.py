"""Quantisation-aware recovery: a few epochs in which the network feels int8 rounding and follows its float self."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.data import Dataset
from edgeprune.learning import Augment, EpochRecord, fit_network, warm_up_then_cosine
from edgeprune.preprocess import Triple
from edgeprune.quantise.simulate import read_back, read_ranges, set_ranges, simulate_int8

_WARM_UP_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Fit:
    """What quantisation-aware recovery gave.

    Attributes:
        network: a copy of the given one with the trained weights, still float.
        ranges: low and high of every tensor by place (see ``simulate.read_ranges``); the weights belong to them.
        epochs: accuracies are the simulation's.
    """

    network: nn.Module
    ranges: dict[str, tuple[float, float]]
    epochs: tuple[EpochRecord, ...]


def recover_int8(
    network: nn.Module,
    *,
    teacher: nn.Module,
    images: Tensor,
    method: str,
    dataset: Dataset,
    mean: Triple,
    std: Triple,
    epochs: int,
    lr: float,
    batch_size: int,
    augment: Augment | None,
    seed: int,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Int8Fit:
    """Train a network through its int8 simulation on its own float logits, at a rate that falls to zero.

    The loss is the squared distance of logits: int8 shall decide as float does, better decisions are not its business.

    Args:
        network: BatchNorm folded, as ``condition_network`` gives it; not changed.
        teacher: the float network; sees the same augmented images.
        images: normalised train images that the ranges are taken from, shape (n, 3, height, width).
        method: how, one of ``calibration.METHODS``; the ranges then stay.
        dataset: learns from ``train``; ``val`` is only reported.
        lr: peak of a cosine after a short warm-up.
        mean, std, epochs, batch_size, augment, seed, on_epoch, progress: as in ``learning.fit_network``.

    Returns:
        The trained weights, still float, with the ranges that they were trained for.

    Raises:
        EdgepruneError: the network cannot be traced.

    Source:
        Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference", section 3.2;
        the float self as teacher: Bhalgat et al. 2020, "LSQ+", section 3, and Mishra, Marr 2018, "Apprentice".
    """
    teacher = copy.deepcopy(teacher).eval()
    simulated = simulate_int8(network)
    set_ranges(simulated, images, method)

    def loss(batch: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        del labels
        with torch.inference_mode():
            wanted = teacher(batch)
        return functional.mse_loss(logits, wanted.clone())

    fit = fit_network(
        simulated,
        train=dataset.train,
        val=dataset.val,
        mean=mean,
        std=std,
        loss=loss,
        lr=warm_up_then_cosine(lr, _WARM_UP_SHARE),
        epochs=epochs,
        patience=None,
        keep="last",
        batch_size=batch_size,
        weight_decay=0.0,
        bn_momentum=0.1,  # there is none left to apply it to
        augment=augment,
        seed=seed,
        on_epoch=on_epoch,
        progress=progress,
    )
    return Int8Fit(network=read_back(fit.network, network), ranges=read_ranges(simulated), epochs=fit.epochs)
