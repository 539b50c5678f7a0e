"""From scores and a target to whole blocks of channels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from edgeprune.errors import UnreachableTargetError
from edgeprune.results import ChannelPlan, GroupPlan


@dataclass(frozen=True, slots=True, order=True)
class _Block:
    """Channels of one layer that go together; the order is the order of removal."""

    score: float
    group: int
    rank: int
    channels: tuple[int, ...]


def choose_channels(
    scores: Mapping[str, np.ndarray], *, target: float, prunable: int, importance: str, align: int
) -> ChannelPlan:
    """Remove the least important blocks of the whole network until the target is reached.

    Each layer's channels are sorted by score and cut into blocks of ``align``; only the first block of a layer may be
    smaller, so that what stays is a multiple of ``align`` from the first removal on. Blocks are ranked globally by
    their mean score. Because means never fall from block to block within a layer, taking the lowest ones first never
    takes a block before a lesser one of its layer. The plan stops at the nearest fraction not below the target that
    whole blocks can reach. The last block of a layer always stays.

    Args:
        scores: group name to one score a channel, in network order: the channels that are still there.
        target: channel sparsity in (0, 1), cumulative: a fraction of ``prunable``.
        prunable: channels of the unpruned network.
        importance: name of the criterion, kept in the plan.
        align: block size; 1 ranks single channels.

    Raises:
        UnreachableTargetError: even with one block left in each layer too few channels go.

    >>> plan = choose_channels({"a": np.array([3.0, 1.0]), "b": np.array([2.0, 4.0])}, target=0.5, prunable=4,
    ...     importance="l1_norm", align=1)
    >>> [group.kept for group in plan.groups]
    [(0,), (1,)]
    """
    present = sum(len(values) for values in scores.values())
    # The small slack keeps 0.07 * 100 = 7.000000000000001 from becoming 8.
    needed = math.ceil(target * prunable - 1e-6) - (prunable - present)
    layers = [_removable_blocks(index, values, align) for index, values in enumerate(scores.values())]
    reachable = sum(len(block.channels) for blocks in layers for block in blocks)
    if needed > reachable:
        raise UnreachableTargetError(target, highest=(prunable - present + reachable) / prunable, align=align)
    odd = any(len(block.channels) != align for blocks in layers for block in blocks)
    taken = _fit_odd_blocks(layers, needed, align) if odd else _lowest_blocks(layers, needed, align)
    removed_channels = {(block.group, channel) for block in taken for channel in block.channels}
    groups = tuple(
        GroupPlan(
            layer=layer,
            channels=len(values),
            kept=tuple(channel for channel in range(len(values)) if (index, channel) not in removed_channels),
        )
        for index, (layer, values) in enumerate(scores.items())
    )
    return ChannelPlan(target=target, prunable=prunable, groups=groups, importance=importance, align=align)


def _removable_blocks(group: int, scores: np.ndarray, align: int) -> list[_Block]:
    order = np.argsort(scores, kind="stable")
    first = len(order) % align or align
    edges = [0, *range(first, len(order) + 1, align)]
    means = [float(scores[order[start:stop]].mean()) for start, stop in pairwise(edges)]
    # Means of equal scores differ in the last bit with the size of the block; they must not fall from block to block.
    rising = list(accumulate(means, max))
    return [
        _Block(
            score=rising[rank],
            group=group,
            rank=rank,
            channels=tuple(int(channel) for channel in order[start:stop]),
        )
        for rank, (start, stop) in enumerate(pairwise(edges[:-1]))
    ]


def _lowest_blocks(layers: list[list[_Block]], needed: int, align: int) -> list[_Block]:
    return sorted(block for blocks in layers for block in blocks)[: max(math.ceil(needed / align), 0)]


def _fit_odd_blocks(layers: list[list[_Block]], needed: int, align: int) -> list[_Block]:
    """The nearest total not below ``needed``, and of all ways to reach it the one with the least sum of scores.

    Where blocks differ in size, the lowest ones may add up to more than is needed while others fit. So the least sum
    for every total is found layer by layer (a knapsack); with blocks of one size it would be the lowest blocks.
    """
    if needed <= 0:
        return []
    size = needed + align  # the nearest total is at most one block above
    least = np.full(size, np.inf)
    least[0] = 0.0
    choices = []
    for blocks in layers:
        options = np.full((len(blocks) + 1, size), np.inf)
        options[0] = least
        channels, score = 0, 0.0
        for row, block in enumerate(blocks, start=1):
            channels += len(block.channels)
            score += block.score * len(block.channels)
            if channels >= size:
                break
            options[row, channels:] = least[:-channels] + score
        choices.append(options.argmin(axis=0))
        least = options.min(axis=0)
    total = needed + int(np.isfinite(least[needed:]).argmax())
    taken: list[_Block] = []
    for blocks, choice in zip(reversed(layers), reversed(choices), strict=True):
        first = blocks[: choice[total]]
        taken += first
        total -= sum(len(block.channels) for block in first)
    return taken
