"""Importance that is read off the weights alone."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.dependencies import ChannelGroup, GroupMember
from edgeprune.errors import InputError
from edgeprune.plan.importance_members import channel_slices, combine_parts, weighted_members

# Rows of a distance matrix at a time: 25,088 inputs of a classifier would fill 5 GB at once.
_ROWS = 1024
# A distance is the root of a difference of squares; what is left of it when two filters are equal is rounding.
_SAME_FILTER = 1e-12


def score_weights(
    network: nn.Module,
    groups: Sequence[ChannelGroup],
    *,
    importance: Literal["l1_norm", "l2_norm", "fpgm", "lamp"],
    coupled: Literal["producer", "all"],
) -> dict[str, np.ndarray]:
    """Norms, distances or shares of filters and input columns; ``score_channels`` says which is which.

    Raises:
        InputError: ``fpgm`` where a layer has one filter and so none to compare it with; a weight that is not finite.
    """
    return {
        group.layer: combine_parts(
            [(member, _criterion(network, member, importance)) for member in weighted_members(network, group, coupled)],
            group.channels,
        )
        for group in groups
    }


def score_gammas(
    network: nn.Module, groups: Sequence[ChannelGroup], *, coupled: Literal["producer", "all"]
) -> dict[str, np.ndarray]:
    """Absolute scales of BatchNorm: of the first one that scales every channel of the group, or the mean over all.

    A group's layers stand in graph order, so that the first one is what stands behind the layer that makes the
    channels, be it at once, behind a depthwise convolution or behind a sum or a concatenation.

    Raises:
        InputError: a group without such a BatchNorm; a scale that is not finite.
    """
    scores = {}
    for group in groups:
        parts = [
            (member, _finite(norm.weight, member, "bn_gamma").abs().numpy()[list(member.indices)])
            for member in group.members
            if isinstance(norm := network.get_submodule(member.layer), nn.BatchNorm1d | nn.BatchNorm2d)
            and norm.weight is not None
        ]
        if coupled == "producer":
            parts = [part for part in parts if len(set(part[0].roots)) == group.channels][:1]
        if len({root for member, _ in parts for root in member.roots}) < group.channels:
            raise InputError(
                f"prune.importance = 'bn_gamma' is blind to {group.layer}: no BatchNorm with a scale follows it.",
                "importance: l1_norm, or name the layer in prune.protect",
            )
        scores[group.layer] = combine_parts(parts, group.channels)
    return scores


def _criterion(network: nn.Module, member: GroupMember, importance: str) -> np.ndarray:
    slices = channel_slices(network.get_submodule(member.layer), member.side)
    indices = list(member.indices)
    count = slices[0].numel()
    # Of finite float32 numbers, float64 holds every norm: one that is not finite tells of a weight that is not.
    norms = partial(torch.linalg.vector_norm, slices, dim=tuple(range(1, slices.dim())))
    match importance:
        case "l1_norm":
            values = _finite(norms(ord=1), member, importance)[indices] / count
        case "l2_norm":
            values = _finite(norms(ord=2), member, importance)[indices] / count**0.5
        case "lamp":
            values = _lamp(_finite(norms(ord=2), member, importance).square())[indices]
        case _:
            values = _mean_distances(_finite(slices, member, importance).flatten(1), member)
    scores: np.ndarray = values.numpy()
    return scores


def _finite(weight: Tensor, member: GroupMember, importance: str) -> Tensor:
    # Before anything is computed: a comparison with NaN is false, and a distance to it would count as none.
    # The sum of finite float32 numbers fits a float64, and takes a fifth of the time of looking at each.
    weight = weight.detach().double()
    if not bool(weight.sum().isfinite()):
        raise InputError(
            f"prune.importance = {importance!r} cannot rank: {member.layer} holds a weight that is not finite.",
            "a baseline that did not diverge",
        )
    return weight


def _lamp(squares: Tensor) -> Tensor:
    """Share of each square in the sum of those not smaller, itself included; equal ones get equal shares."""
    order = squares.sort().values
    sums = order.flip(0).cumsum(0).flip(0)
    not_smaller = sums[torch.searchsorted(order, squares)]
    return torch.where(not_smaller > 0, squares / not_smaller, torch.zeros_like(squares))


def _mean_distances(slices: Tensor, member: GroupMember) -> Tensor:
    """Root mean square difference to each other channel of the layer, averaged over those.

    Where a channel has several indices, as the pixels of a flattened map have, each is compared with the other
    channels' indices at its own position.
    """
    scores = torch.empty(len(member.indices), dtype=torch.float64)
    seen: dict[int, int] = {}
    positions: dict[int, list[int]] = {}
    for place, root in enumerate(member.roots):
        seen[root] = seen.get(root, 0) + 1
        positions.setdefault(seen[root], []).append(place)
    for places in positions.values():
        rows = slices[[member.indices[place] for place in places]]
        if len(rows) == 1:
            raise InputError(
                f"prune.importance = 'fpgm' is blind to {member.layer}: a single filter has no other beside it.",
                "importance: l1_norm, or name the layer in prune.protect",
            )
        squares = rows.square().sum(dim=1)
        sums = torch.cat([_distance_sums(part, rows, squares) for part in torch.split(rows, _ROWS)])
        scores[places] = sums / (len(rows) - 1) / rows.shape[1] ** 0.5
    return scores


def _distance_sums(part: Tensor, rows: Tensor, squares: Tensor) -> Tensor:
    lengths = part.square().sum(dim=1, keepdim=True) + squares
    apart = lengths - 2 * part @ rows.T
    return torch.where(apart > _SAME_FILTER * lengths, apart, torch.zeros_like(apart)).sqrt().sum(dim=1)
