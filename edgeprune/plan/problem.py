"""Blocks and bounds, and which plans meet them: what the search for a plan works on."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeprune.plan.blocks import Block
from edgeprune.plan.liveness import MemoryPlan

# Floating point must not break a bound that is met exactly.
TOLERANCE = 1e-9


@dataclass(slots=True, eq=False)
class Problem:
    """Blocks and bounds; a plan is the number of blocks removed of each group, shape (groups,).

    Attributes:
        channels: of each group.
        blocks: of each group, in the order of removal; the last block of a group is not among them.
        matrices: of each bound that is a sum, over the bound: it is met where ``x @ matrix @ x <= 1``.
        memories: of each bound on memory, the moments that can break it, and the bytes that none may need more of.
    """

    channels: Sequence[int]
    blocks: Sequence[Sequence[Block]]
    matrices: np.ndarray
    memories: Sequence[tuple[MemoryPlan, float]]
    most: np.ndarray = field(init=False)
    _kept: np.ndarray = field(init=False)
    _gain: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.most = np.array([len(blocks) for blocks in self.blocks], int)
        width = int(self.most.max(initial=0)) + 1
        self._kept = np.zeros((len(self.blocks), width))
        self._gain = np.zeros((len(self.blocks), width))
        for group, blocks in enumerate(self.blocks):
            sizes = [len(block.channels) for block in blocks]
            gone = np.concatenate([[0], np.cumsum(sizes)]) if sizes else np.zeros(1)
            self._kept[group] = self.channels[group] - np.pad(gone, (0, width - len(gone)), mode="edge")
            lost = np.concatenate([[0.0], np.cumsum([block.importance for block in blocks])])
            self._gain[group] = -np.pad(lost, (0, width - len(lost)), mode="edge")

    def vectors(self, plans: np.ndarray) -> np.ndarray:
        """``x`` of plans, shape (plans, groups) to (plans, 1 + groups)."""
        kept = self._kept[np.arange(plans.shape[1]), plans]
        return np.concatenate([np.ones((len(plans), 1)), kept], axis=1)

    def value(self, plans: np.ndarray) -> np.ndarray:
        """Importance kept, less that of all channels: 0 where nothing is removed; shape (plans,)."""
        values: np.ndarray = self._gain[np.arange(plans.shape[1]), plans].sum(axis=1)
        return values

    def usage(self, plans: np.ndarray) -> np.ndarray:
        """Share of each bound that is used, shape (plans, sums + moments); met where at most 1."""
        x = self.vectors(plans)
        moments = [memory.bytes_by_moment(x) / bound for memory, bound in self.memories]
        return np.concatenate([self._sums(x), *moments], axis=1)

    def feasible(self, plans: np.ndarray) -> np.ndarray:
        """Which of some plans meet every bound, shape (plans,)."""
        x = self.vectors(plans)
        good = np.asarray((self._sums(x) <= 1 + TOLERANCE).all(axis=1))
        for memory, bound in self.memories:
            found = np.flatnonzero(good)
            used = memory.bytes_by_moment(x[found])
            good[found] = (used <= bound * (1 + TOLERANCE)).all(axis=1)
        return good

    def slopes(self, plan: np.ndarray) -> np.ndarray:
        """What one channel more of a group uses of each bound, shape (sums + moments, groups)."""
        x = self.vectors(plan[None])[0]
        slopes = 2 * (self.matrices @ x)[:, 1:]
        return np.concatenate([slopes, *(memory.slopes() / bound for memory, bound in self.memories)])

    def _sums(self, x: np.ndarray) -> np.ndarray:
        sums: np.ndarray = ((x @ self.matrices) * x).sum(axis=2).T
        return sums
