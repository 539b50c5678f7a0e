"""From what each layer of a group says about its own channels to the group's channels."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor, nn

from edgeprune.dependencies import ChannelGroup, GroupMember

# One layer's part in a group, and what was read off each of its indices, float64, shape (indices,).
Part = tuple[GroupMember, np.ndarray]


def combine_parts(parts: Sequence[Part], channels: int) -> np.ndarray:
    """Mean over layers, each first averaged over the indices that belong to the same channel.

    Args:
        parts: layers of one group, with a value for each index.
        channels: of the group.

    Returns:
        float64, shape (channels,); NaN for a channel that no part covers. A layer counts only where it has indices.

    Source:
        Fang, Ma, Song, Mi, Wang 2023, "DepGraph: Towards Any Structural Pruning", section 3.3.

    >>> offset = GroupMember(layer="reader", side="in", indices=(8, 9), roots=(0, 1))
    >>> flattened = GroupMember(layer="head", side="in", indices=(0, 1, 2, 3), roots=(0, 0, 1, 1))
    >>> combine_parts([(offset, np.array([1.0, 2.0])), (flattened, np.array([2.0, 4.0, 6.0, 8.0]))], 2).tolist()
    [2.0, 4.5]
    """
    total, layers = np.zeros(channels), np.zeros(channels)
    for member, values in parts:
        indices = np.bincount(member.roots, minlength=channels)
        sums = np.bincount(member.roots, weights=values, minlength=channels)
        total += np.divide(sums, indices, out=np.zeros(channels), where=indices > 0)
        layers += indices > 0
    means: np.ndarray = np.divide(total, layers, out=np.full(channels, np.nan), where=layers > 0)
    return means


def weighted_members(
    network: nn.Module, group: ChannelGroup, coupled: Literal["producer", "all"]
) -> tuple[GroupMember, ...]:
    """Convolutions and linear layers of a group: the one that makes the channels, or all."""
    if coupled == "producer":
        return group.members[:1]
    return tuple(
        member for member in group.members if isinstance(network.get_submodule(member.layer), nn.Conv2d | nn.Linear)
    )


def channel_slices(layer: nn.Module, side: Literal["out", "in"]) -> Tensor:
    """Weights of a convolution or linear layer, float64, by channel.

    Args:
        layer: not changed.
        side: ``out`` for its filters, ``in`` for its input columns.

    Returns:
        Shape (channels, ...): whose rest are the weights that would go with a channel. In a grouped convolution an
        input channel is read by the filters of its own group only.
    """
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    weight = layer.weight.detach().double()
    if side == "out":
        return weight
    if isinstance(layer, nn.Linear):
        return weight.T
    filters, columns, *kernel = weight.shape
    grouped = weight.reshape(layer.groups, filters // layer.groups, columns, *kernel)
    return grouped.transpose(1, 2).reshape(layer.in_channels, filters // layer.groups, *kernel)
