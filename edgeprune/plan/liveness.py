"""Peak activation memory of the int8 file that a network would become, for any number of kept channels.

What is alive together is decided by the graph alone, so it is found once; how many bytes that is follows from what the
groups keep.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeprune.plan.file_steps import Step, lower_operators
from edgeprune.plan.operators import Operator
from edgeprune.plan.parts import Chain, find_chains, peak_in_parts

# Tensors start at multiples of this in the arena.
_ALIGNMENT = 16
# A message names so many tensors and counts more.
_NAMED = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MemoryPlan:
    """Which tensors live together.

    Attributes:
        sizes: bytes of every tensor, one vector ``v`` a row (see ``operators``), shape (tensors, 1 + groups).
        live: what is in use while a step runs, shape (moments, tensors); a moment is a step.
        names: of the moments.
        chains: of steps that could be computed in parts; empty where they are not to be.
        steps: all operators of the file, by kind.
        resident: bytes that are in use at every moment besides, as one vector ``v``, shape (1 + groups,).
    """

    sizes: np.ndarray
    live: np.ndarray
    names: tuple[str, ...]
    chains: tuple[Chain, ...]
    steps: tuple[Step, ...]
    resident: np.ndarray

    def bytes_by_moment(self, kept: np.ndarray) -> np.ndarray:
        """Bytes in use at every moment, for many plans at once.

        Args:
            kept: vectors ``x``, shape (plans, 1 + groups).

        Returns:
            Shape (plans, moments).
        """
        exact = kept @ self.sizes.T
        aligned = np.ceil(exact / _ALIGNMENT - 1e-9) * _ALIGNMENT
        used = aligned @ self.live.T
        if self.chains:
            # Only the widest one is computed in parts.
            widths = exact[:, [chain.wide for chain in self.chains]]
            widest = widths.argmax(axis=1)
            for number, chain in enumerate(self.chains):
                plans = np.flatnonzero(widest == number)
                if len(plans):
                    places = plans[:, None], np.array(chain.moments)
                    whole = used[places].max(axis=1)
                    parts = np.array([peak_in_parts(chain, row) for row in exact[plans]])
                    used[places] = np.minimum(whole, parts)[:, None]
        in_use: np.ndarray = used + (kept @ self.resident)[:, None]
        return in_use

    def peak(self, kept: np.ndarray) -> tuple[int, int]:
        """Bytes of the arena's head for one plan, shape (1 + groups,), and the moment at which it is full."""
        used = self.bytes_by_moment(kept[None])[0]
        moment = int(used.argmax())
        return round(float(used[moment])), moment

    def restricted(self, bound: float, kept: np.ndarray) -> "MemoryPlan":
        """Only the moments that can need more than a number of bytes.

        Args:
            bound: bytes.
            kept: the largest plan that is to be considered, as a vector ``x``.
        """
        used = replace(self, chains=()).bytes_by_moment(kept[None])[0]
        chained = {moment for chain in self.chains for moment in chain.moments}
        moments = [moment for moment in range(len(used)) if used[moment] > bound or moment in chained]
        numbers = {moment: number for number, moment in enumerate(moments)}
        return replace(
            self,
            live=self.live[moments],
            names=tuple(self.names[moment] for moment in moments),
            chains=tuple(chain.renumbered(numbers) for chain in self.chains),
        )

    def folded(self, fold: np.ndarray) -> "MemoryPlan":
        """The same over fewer groups: ``x = fold @ (1, kept of those groups ...)``."""
        return replace(self, sizes=self.sizes @ fold, resident=self.resident @ fold)

    def slopes(self) -> np.ndarray:
        """Bytes at each moment that one channel of a group takes, shape (moments, groups); parts are left out."""
        slopes: np.ndarray = (self.live @ self.sizes + self.resident)[:, 1:]
        return slopes


def plan_memory(operators: Sequence[Operator], *, rotate: bool, split_peak: bool) -> MemoryPlan:
    """Find what lives together in the int8 file.

    Args:
        operators: of the network.
        rotate: padding of strided convolutions vanishes, because the network is exported for rotated images.
        split_peak: the widest hard-swish is computed in parts where that lowers the peak.
    """
    lowering = lower_operators(operators, rotate=rotate)
    steps = lowering.steps
    sizes = np.array(lowering.sizes)
    live = _find_live(steps, len(sizes), answer=lowering.place[len(operators) - 1])
    return MemoryPlan(
        sizes=sizes,
        live=live.astype(float),
        names=tuple(_describe(steps, moment, live) for moment in range(len(steps))),
        chains=find_chains(steps, lowering.shapes) if split_peak else (),
        steps=tuple(steps),
        resident=np.zeros(sizes.shape[1]),
    )


def _find_live(steps: list[Step], tensors: int, *, answer: int) -> np.ndarray:
    first = np.zeros(tensors, int)
    last = np.zeros(tensors, int)
    for moment, step in enumerate(steps):
        first[step.writes] = last[step.writes] = moment
        for tensor in step.reads:
            last[tensor] = moment
    last[answer] = len(steps) - 1
    moments = np.arange(len(steps))[:, None]
    live: np.ndarray = (first <= moments) & (moments <= last)
    return live


def _describe(steps: list[Step], moment: int, live: np.ndarray) -> str:
    step = steps[moment]
    inputs = "input" if len(step.reads) == 1 else f"{len(step.reads)} inputs"
    makers = {each.writes: each.layer for each in steps}
    waiting = [
        makers.get(tensor, "the image")
        for tensor in np.flatnonzero(live[moment]).tolist()
        if tensor not in (*step.reads, step.writes)
    ]
    padding = "padding of " if step.kind == "pad" else ""
    named = ", ".join(waiting) if len(waiting) <= _NAMED else f"{len(waiting)} tensors"
    rest = f" + {named} waiting" if waiting else ""
    return f"{padding}{step.layer or step.kind} output + {inputs}{rest}"
