"""How much each channel matters."""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from torch import nn

from edgeprune.dependencies import ChannelGroup
from edgeprune.errors import InputError


def score_channels(
    network: nn.Module, groups: Iterable[ChannelGroup], *, importance: Literal["l1_norm", "bn_gamma"]
) -> dict[str, np.ndarray]:
    """One score a channel, comparable over the whole network; low scores go first.

    Args:
        network: not changed.
        groups: its census.
        importance: ``l1_norm`` is the mean absolute weight of the filter that makes the channel (Li et al. 2017,
            "Pruning Filters for Efficient ConvNets"; the mean and not the sum, so that layers with different numbers
            of inputs can be ranked together). ``bn_gamma`` is the absolute scale of the BatchNorm that follows it
            (Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming").

    Returns:
        Group name to float64 scores, shape (channels,).

    Raises:
        InputError: ``bn_gamma`` where no BatchNorm follows, or where all gammas are equal and rank nothing.
    """
    if importance == "l1_norm":
        return {group.layer: _mean_absolute_filters(network, group) for group in groups}
    scores = {group.layer: _absolute_gammas(network, group) for group in groups}
    if len({float(gamma) for gammas in scores.values() for gamma in gammas}) == 1:
        raise InputError(
            "prune.importance = 'bn_gamma' cannot rank: every BatchNorm scale has the same value, as in a network "
            "that was never trained.",
            "importance: l1_norm, or a trained baseline",
        )
    return scores


def _mean_absolute_filters(network: nn.Module, group: ChannelGroup) -> np.ndarray:
    convolution = network.get_submodule(group.layer)
    assert isinstance(convolution, nn.Conv2d)
    scores: np.ndarray = convolution.weight.detach().double().abs().mean(dim=(1, 2, 3)).numpy()
    return scores


def _absolute_gammas(network: nn.Module, group: ChannelGroup) -> np.ndarray:
    # The first follower in graph order is what stands directly behind the convolution.
    norm = network.get_submodule(group.followers[0]) if group.followers else None
    if not isinstance(norm, nn.BatchNorm2d) or norm.weight is None:
        raise InputError(
            f"prune.importance = 'bn_gamma' is blind to {group.layer}: no BatchNorm with a scale follows it.",
            "importance: l1_norm",
        )
    scores: np.ndarray = norm.weight.detach().double().abs().numpy()
    return scores
