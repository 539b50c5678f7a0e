"""Channels of one group in the order in which they would go, cut into blocks that only go whole."""

import math
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """Channels of one group that go together; the order is the order of removal.

    Attributes:
        score: mean of its channels, at least that of the block before.
        group: position of the group.
        rank: position of the block in its group.
        channels: indices.
    """

    score: float
    group: int
    rank: int
    channels: tuple[int, ...]

    @property
    def importance(self) -> float:
        """Sum over its channels."""
        return self.score * len(self.channels)


def cut_blocks(group: int, scores: np.ndarray, *, align: int, unit: int = 1) -> list[Block]:
    """All blocks of a group but its last one, which always stays.

    Whole units are sorted by their mean score and cut into blocks of ``lcm(align, unit)`` channels; only the first
    block may be smaller, so that what stays is a multiple of that from the first removal on.

    Args:
        group: its position.
        scores: of its channels.
        align: block size in channels.
        unit: channels that only go together: 0 to unit - 1, unit to 2 * unit - 1, ...

    >>> [block.channels for block in cut_blocks(0, np.array([3.0, 1.0, 9.0, 9.0, 2.0, 2.0]), align=1, unit=2)]
    [(0, 1), (4, 5)]
    """
    if len(scores) % unit:
        raise ValueError(f"{len(scores)} channels are no multiple of the unit {unit}")
    size = math.lcm(align, unit)
    ranked = np.argsort(scores.reshape(-1, unit).mean(axis=1), kind="stable")
    order = (ranked[:, None] * unit + np.arange(unit)).ravel()
    first = len(order) % size or size
    edges = [0, *range(first, len(order) + 1, size)]
    means = [float(scores[order[start:stop]].mean()) for start, stop in pairwise(edges)]
    # Means of equal scores differ in the last bit with the size of the block; they must not fall from block to block.
    rising = list(accumulate(means, max))
    return [
        Block(
            score=rising[rank],
            group=group,
            rank=rank,
            channels=tuple(int(channel) for channel in order[start:stop]),
        )
        for rank, (start, stop) in enumerate(pairwise(edges[:-1]))
    ]
