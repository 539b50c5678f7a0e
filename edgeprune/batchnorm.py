"""BatchNorm statistics: re-estimated after surgery, and restored where a file came with them folded away."""

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.data import PackedSplit, iterate_batches, run_ahead
from edgeprune.distributed import ALONE, Team
from edgeprune.preprocess import Triple

_BATCH = 128


def recalibrate_batchnorm(
    network: nn.Module, images: np.ndarray, *, mean: Triple, std: Triple, team: Team = ALONE
) -> nn.Module:
    """Re-estimate BatchNorm statistics by forward passes without gradients.

    The statistics become the plain average over all batches (momentum ``None``), not torchvision's moving average,
    whose momentum of 0.01 would still carry the statistics of the channels that are gone.

    Args:
        network: not changed.
        images: uint8, shape (n, height, width, 3).
        mean, std: normalisation.
        team: shares the batches.

    Returns:
        A copy on the CPU, in evaluation mode.
    """
    network = copy.deepcopy(network).to(team.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        # Only BatchNorm learns here: dropout and stochastic depth stay off.
        norm.train()
    split = PackedSplit(name="recalibration", images=images, labels=np.zeros(len(images), np.int64), names=())
    size = _even_batch_size(len(images))
    team.meet()
    with torch.no_grad():
        batches = iterate_batches(split, batch_size=size, mean=mean, std=std, device=team.device)
        for index, (batch, _) in enumerate(run_ahead(batches)):
            # One image alone can have no variance (1x1 feature maps in the classifier).
            if index % team.size == team.rank and len(batch) > 1:
                network(batch)
        _combine_averages(norms, team)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network.eval().to("cpu")


def restore_folded_batchnorm(network: nn.Module, images: np.ndarray, *, mean: Triple, std: Triple) -> nn.Module:
    """Give BatchNorms with folded statistics real ones, leaving the function as it is.

    Weights that come from a runtime's file have running mean 0 and variance 1, with the true statistics folded into
    scale and shift. In training mode such a layer would normalise by the batch's statistics all the same and change
    the function beyond repair. So each layer's input statistics m and v are measured with the network as it is, and
    ``scale * x + shift`` is written as ``gamma * (x - m) / sqrt(v + eps) + beta``.

    Args:
        network: not changed.
        images: uint8, shape (n, height, width, 3).
        mean, std: normalisation.

    Returns:
        A copy in evaluation mode that computes the same function in float64.
    """
    network = copy.deepcopy(network).eval()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    sums: dict[nn.BatchNorm2d, list[Tensor]] = {norm: [] for norm in norms}

    def measure(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        values = inputs[0].double()
        sums[module].append(torch.stack([values.mean(dim=(0, 2, 3)), values.square().mean(dim=(0, 2, 3))]))

    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    split = PackedSplit(name="recalibration", images=images, labels=np.zeros(len(images), np.int64), names=())
    with torch.no_grad():
        for batch, _ in iterate_batches(split, batch_size=_even_batch_size(len(images)), mean=mean, std=std):
            network(batch)
        for norm in norms:
            average, square = torch.stack(sums[norm]).mean(dim=0)
            variance = (square - average.square()).clamp(min=1e-10)
            _absorb_statistics(norm, average, variance)
    for hook in hooks:
        hook.remove()
    return network


def _combine_averages(norms: list[nn.BatchNorm1d | nn.BatchNorm2d], team: Team) -> None:
    """Averages over each process's batches become one over all of them."""
    if team.size == 1:
        return
    for norm in norms:
        assert norm.num_batches_tracked is not None
        share = norm.num_batches_tracked.float()
        batches = share.clone()
        team.add(batches)
        norm.num_batches_tracked.copy_(batches)
        statistics = [buffer for buffer in (norm.running_mean, norm.running_var) if buffer is not None]
        for buffer in statistics:
            buffer.mul_(share / batches)
        team.add(*statistics)


def _even_batch_size(n: int) -> int:
    # Batches of (almost) equal size: averaged over batches, every image weighs alike, however few are left over.
    return math.ceil(n / math.ceil(n / _BATCH))


def _absorb_statistics(norm: nn.BatchNorm2d, average: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - scale * norm.running_mean.double()
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    norm.bias.copy_(shift + scale * average)
    norm.running_mean.copy_(average)
    norm.running_var.copy_(variance)
