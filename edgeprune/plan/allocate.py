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
    their mean score. Because means rise from block to block within a layer, taking the lowest ones first never takes
    a block before a lesser one of its layer. The plan stops at the first fraction that is not below the target, and
    hands back blocks that turn out not to be needed. The last block of a layer always stays.

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
    blocks = sorted(
        block for index, values in enumerate(scores.values()) for block in _removable_blocks(index, values, align)
    )
    reachable = sum(len(block.channels) for block in blocks)
    if needed > reachable:
        raise UnreachableTargetError(target, highest=(prunable - present + reachable) / prunable, align=align)
    taken: list[_Block] = []
    removed = 0
    for block in blocks:
        if removed >= needed:
            break
        taken.append(block)
        removed += len(block.channels)
    removed_channels = _without_surplus(taken, surplus=removed - needed)
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


def _without_surplus(taken: list[_Block], *, surplus: int) -> set[tuple[int, int]]:
    """Channels of the taken blocks, less blocks that fit into the surplus, the most important handed back first."""
    final_groups: set[int] = set()
    removed: set[tuple[int, int]] = set()
    for block in reversed(taken):
        # Only the last taken block of a layer can be handed back, or a lesser one would outlive a better one.
        if block.group not in final_groups and len(block.channels) <= surplus:
            surplus -= len(block.channels)
            continue
        final_groups.add(block.group)
        removed |= {(block.group, channel) for channel in block.channels}
    return removed
