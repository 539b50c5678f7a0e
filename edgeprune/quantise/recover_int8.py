"""Quantisation-aware recovery: some epochs in which the network feels int8 rounding and follows its float self.

It follows block by block, not at the end only: two logits an image say little about where rounding went wrong.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.data import Dataset
from edgeprune.learning import Augment, EpochRecord, FitSettings, Step, Unfinished, fit_network, warm_up_then_cosine
from edgeprune.preprocess import Triple
from edgeprune.quantise.rounding import RoundActivation
from edgeprune.quantise.simulate import read_back, read_ranges, set_ranges, simulate_int8, stop_rounding

_WARM_UP_SHARE = 0.05
# Of the blocks' distances against the logits', each relative to how much its target varies.
_BLOCKS_WEIGHT = 0.5
_SPREAD_IMAGES = 64


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
    unfinished: Unfinished | None = None,
) -> Int8Fit:
    """Train a network through its int8 simulation to compute what it computes in float, at a rate that falls to zero.

    The loss is the squared distance of logits and of block outputs: int8 shall decide as float does, better decisions
    are not its business.

    Args:
        network: BatchNorm folded, as ``condition_network`` gives it; not changed.
        images: normalised train images that the first ranges are taken from, shape (n, 3, height, width).
        method: how, one of ``calibration.METHODS``; training moves their ends.
        dataset: learns from the labelled images of ``train``; ``val`` is only reported.
        lr: peak of a cosine after a short warm-up. Small: at ten times as much, training first has to repair itself.
        mean, std, epochs, batch_size, augment, seed, on_epoch, progress, unfinished: as in ``learning.FitSettings``
            and ``fit_network``.

    Returns:
        The trained weights, still float, with the ranges that they were trained for.

    Raises:
        EdgepruneError: the network cannot be traced.

    Source:
        Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference", section 3.2;
        the float self as teacher: Mishra, Marr 2018, "Apprentice"; block outputs: Li et al. 2021, "BRECQ", section 3.2.
    """
    simulated = simulate_int8(network)
    set_ranges(simulated, images, method)
    teacher = copy.deepcopy(simulated)
    stop_rounding(teacher)
    got, wanted = _watch_blocks(simulated), _watch_blocks(teacher)
    with torch.inference_mode():
        spread = float(_spread(teacher(images[:_SPREAD_IMAGES])))
        spreads = {name: float(_spread(values)) for name, values in wanted.items()}

    def loss(step: Step) -> Tensor:
        with torch.inference_mode():
            target = teacher(step.images)
        blocks = [functional.mse_loss(got[name], wanted[name].clone()) / spreads[name] for name in spreads]
        return functional.mse_loss(step.logits, target.clone()) / spread + _BLOCKS_WEIGHT * torch.stack(blocks).mean()

    fit = fit_network(
        simulated,
        train=dataset.train.labelled(),
        val=dataset.val,
        loss=loss,
        settings=FitSettings(
            mean=mean,
            std=std,
            lr=warm_up_then_cosine(lr, _WARM_UP_SHARE),
            epochs=epochs,
            patience=None,
            keep="last",
            batch_size=batch_size,
            weight_decay=0.0,
            bn_momentum=0.1,  # there is none left to apply it to
            augment=augment,
            seed=seed,
        ),
        on_epoch=on_epoch,
        progress=progress,
        unfinished=unfinished,
    )
    return Int8Fit(network=read_back(fit.network, network), ranges=read_ranges(fit.network), epochs=fit.epochs)


def _watch_blocks(simulated: nn.Module) -> dict[str, Tensor]:
    """What the ends of blocks gave in the last forward pass, of copies of the network too."""
    latest: dict[str, Tensor] = {}
    for name, module in simulated.named_modules():
        if isinstance(module, RoundActivation) and module.ends_block:
            module.register_forward_hook(lambda _, __, result, name=name: latest.__setitem__(name, result))
    return latest


def _spread(values: Tensor) -> Tensor:
    """Variance within channels, over everything else; shape (n, channels, ...)."""
    return values.transpose(0, 1).flatten(1).var(1).mean().clamp_min(1e-12)
