"""From scores and a target to whole blocks of channels."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from edgeprune.errors import UnreachableTargetError
from edgeprune.plan.blocks import Block, cut_blocks
from edgeprune.results import ChannelPlan, GroupPlan


def choose_channels(
    scores: Mapping[str, np.ndarray],
    *,
    target: float,
    prunable: int,
    importance: str,
    align: int,
    units: Mapping[str, int] | None = None,
) -> ChannelPlan:
    """Remove the least important blocks of the whole network until the target is reached.

    Each group's channels are sorted by score and cut into blocks of ``align`` (of the least common multiple with the
    unit, where channels only go in units; units are ranked by their mean); only the first block of a group may be
    smaller, so that what stays is a multiple of it from the first removal on. Blocks are ranked globally by their mean
    score. Because means never fall from block to block within a group, taking the lowest ones first never takes a
    block before a lesser one of its group. The plan stops at the nearest fraction not below the target that whole
    blocks can reach, and keeps the most importance, as a sum of scores, that any plan of so many channels in such
    blocks can keep. The last block of a group always stays.

    Args:
        scores: group name to one score a channel, in network order: the channels that are still there.
        target: channel sparsity in (0, 1), cumulative: a fraction of ``prunable``.
        prunable: channels of the unpruned network.
        importance: name of the criterion, kept in the plan.
        align: block size; 1 ranks single channels.
        units: group name to the channels that only go together; 1 where it is not named.

    Raises:
        UnreachableTargetError: even with one block left in each group too few channels go.

    >>> plan = choose_channels({"a": np.array([3.0, 1.0]), "b": np.array([2.0, 4.0])}, target=0.5, prunable=4,
    ...     importance="l1_norm", align=1)
    >>> [group.kept for group in plan.groups]
    [(0,), (1,)]
    """
    present = sum(len(values) for values in scores.values())
    # The small slack keeps 0.07 * 100 = 7.000000000000001 from becoming 8.
    needed = math.ceil(target * prunable - 1e-6) - (prunable - present)
    layers = [
        cut_blocks(index, values, align=align, unit=(units or {}).get(layer, 1))
        for index, (layer, values) in enumerate(scores.items())
    ]
    reachable = sum(len(block.channels) for blocks in layers for block in blocks)
    if needed > reachable:
        raise UnreachableTargetError(target, highest=(prunable - present + reachable) / prunable, align=align)
    sizes = {len(block.channels) for blocks in layers for block in blocks} - {align}
    taken = _fit_odd_blocks(layers, needed, max(sizes | {align})) if sizes else _lowest_blocks(layers, needed, align)
    return ChannelPlan(
        target=target, prunable=prunable, groups=list_kept(scores, taken), importance=importance, align=align
    )


def list_kept(scores: Mapping[str, np.ndarray], taken: Sequence[Block]) -> tuple[GroupPlan, ...]:
    """What stays in every group when some blocks are taken.

    Args:
        scores: as in ``choose_channels``.
        taken: blocks; their groups are positions in ``scores``.
    """
    removed = {(block.group, channel) for block in taken for channel in block.channels}
    return tuple(
        GroupPlan(
            layer=layer,
            channels=len(values),
            kept=tuple(channel for channel in range(len(values)) if (index, channel) not in removed),
        )
        for index, (layer, values) in enumerate(scores.items())
    )


def _lowest_blocks(layers: list[list[Block]], needed: int, align: int) -> list[Block]:
    return sorted(block for blocks in layers for block in blocks)[: max(math.ceil(needed / align), 0)]


def _fit_odd_blocks(layers: list[list[Block]], needed: int, largest: int) -> list[Block]:
    """The nearest total not below ``needed``, and of all ways to reach it the one with the least sum of scores.

    Where blocks differ in size, the lowest ones may add up to more than is needed while others fit. So the least sum
    for every total is found layer by layer (a knapsack); with blocks of one size it would be the lowest blocks.
    """
    if needed <= 0:
        return []
    size = needed + largest  # the nearest total is less than one block above
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
    taken: list[Block] = []
    for blocks, choice in zip(reversed(layers), reversed(choices), strict=True):
        first = blocks[: choice[total]]
        taken += first
        total -= sum(len(block.channels) for block in first)
    return taken
