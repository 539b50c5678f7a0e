"""From scores and a budget to a plan: the most importance that every bound allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.budget import Budget
from edgeprune.dependencies import ChannelGroup
from edgeprune.errors import EdgepruneError, InputError, UnreachableTargetError
from edgeprune.plan.allocate import list_kept
from edgeprune.plan.blocks import Block, cut_blocks
from edgeprune.plan.cost_model import CostModel, ModelCost
from edgeprune.plan.problem import Problem
from edgeprune.plan.search import search_plan
from edgeprune.results import ChannelPlan

_WORDS = {
    "flash_bytes": "flash",
    "ram_bytes": "ram",
    "arena_bytes": "arena",
    "macs": "macs",
    "params": "params",
    "latency_ms": "latency",
    "channels": "target",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The lowest that one bound can be set to.

    Attributes:
        bound: ``flash``, ``ram``, ``arena``, ``macs``, ``params`` or ``latency``.
        lowest: with one block left in every group; bytes, a count or milliseconds.
        set_by: the layer that most of it is in, or what is alive at the peak.
        asked: the bound that was given.
    """

    bound: str
    lowest: float
    set_by: str
    asked: float

    def __str__(self) -> str:
        return f"{self.bound}: lowest reachable {_show(self.bound, self.lowest)}, set by {self.set_by}"


class UnreachableBudgetError(EdgepruneError):
    """A budget asks for less than is left when every group keeps one block (exit code 1).

    Attributes:
        floors: of every bound that was given.
    """

    def __init__(self, floors: tuple[Floor, ...], *, align: int) -> None:
        broken = [floor for floor in floors if floor.asked < floor.lowest]
        asked = ", ".join(f"{floor.bound} {_show(floor.bound, floor.asked)}" for floor in broken)
        super().__init__(
            f"The budget cannot be met ({asked}): {'; '.join(map(str, floors))}.",
            f"bounds above these floors, a smaller `align` than {align}, fewer protected modules, or a smaller network",
        )
        self.floors = floors


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A plan that meets a budget, by the cost model.

    Attributes:
        plan: channels to keep; its target is the one asked for, else what the plan achieves.
        cost: of the plan.
        kept_importance: sum of the scores that stay, over the sum of all, in [0, 1].
        binding: the bound with the least room left (``flash``, ``ram``, ``arena``, ``macs``, ``params``, ``latency`` or
            ``target``); empty where nothing had to go.
        binding_at: the layer that most of it is in, or what is alive at the peak.
        slack: bound to the share of it that is not used, in [0, 1).
    """

    plan: ChannelPlan
    cost: ModelCost
    kept_importance: float
    binding: str
    binding_at: str
    slack: dict[str, float]


def solve_budget(
    scores: Mapping[str, np.ndarray],
    model: CostModel,
    *,
    budget: Budget,
    importance: str,
    align: int,
    units: Mapping[str, int] | None = None,
    target: float | None = None,
    prunable: int | None = None,
) -> Solution:
    """Choose whole blocks to remove so that every bound is met and the sum of the scores that stay is largest.

    The plan meets every bound exactly as the model counts. That no plan keeps more is not proven: over small problems
    that can be tried out in full it keeps within 1 % of the best on average. A budget that cannot be met is recognised
    exactly, because no cost rises when channels go.

    Args:
        scores: group name to one score a channel, in network order: the channels that are still there.
        model: of the same network; groups without scores keep everything.
        budget: at least one bound, or a target.
        importance: name of the criterion, kept in the plan.
        align: block size.
        units: group name to the channels that only go together; 1 where it is not named.
        target: channel sparsity to reach at least, besides the bounds.
        prunable: channels of the unpruned network; those of ``scores`` where it is left out.

    Raises:
        UnreachableBudgetError: one block left in every group is too much for a bound.
        UnreachableTargetError: or too much for the target.
        InputError: a bound on latency, and a model that knows none.
    """
    names = [name for name in model.groups if name in scores]
    values = {name: np.asarray(scores[name]) for name in names}
    blocks = [
        cut_blocks(index, values[name], align=align, unit=(units or {}).get(name, 1))
        for index, name in enumerate(names)
    ]
    present = sum(len(each) for each in values.values())
    prunable = present if prunable is None else prunable
    floor = {
        name: len(values[name]) - sum(len(block.channels) for block in found)
        for name, found in zip(names, blocks, strict=True)
    }
    _check_floors(model, budget, floor, align)
    bounds = dict(budget.bounds)
    if target is not None:
        bounds["channels"] = present - _channels_to_remove(target, prunable, present, sum(floor.values()), align)
    problem = _state_problem(model, names, blocks, bounds)
    removed = search_plan(problem)
    taken = [block for found, count in zip(blocks, removed, strict=True) for block in found[:count]]
    groups = list_kept(values, taken)
    kept = {group.layer: len(group.kept) for group in groups}
    achieved = (prunable - sum(kept.values())) / prunable
    cost = model.cost(kept)
    slack = {_WORDS[bound]: 1 - _figure(cost, bound, kept) / limit for bound, limit in bounds.items()}
    binding = min(slack, key=lambda word: slack[word]) if taken else ""
    field = next((name for name, word in _WORDS.items() if word == binding), "")
    total = float(sum(each.sum() for each in values.values()))
    lost = float(sum(values[names[block.group]][list(block.channels)].sum() for block in taken))
    return Solution(
        plan=ChannelPlan(
            target=achieved if target is None else target,
            prunable=prunable,
            groups=groups,
            importance=importance,
            align=align,
        ),
        cost=cost,
        kept_importance=1 - lost / total if total else 1.0,
        binding=binding,
        binding_at=model.largest(field, kept) if field not in ("", "channels") else "",
        slack=slack,
    )


def require_reachable(groups: Sequence[ChannelGroup], model: CostModel, *, budget: Budget, align: int) -> None:
    """Whether ``solve_budget`` could meet a budget, whatever the scores.

    Args:
        groups: census of the model's network.
        model, budget, align: as there.

    Raises:
        UnreachableBudgetError: one block left in every group is too much for a bound.
    """
    floor = {}
    for group in groups:
        blocks = cut_blocks(0, np.zeros(group.channels), align=align, unit=group.unit)
        floor[group.layer] = group.channels - sum(len(block.channels) for block in blocks)
    _check_floors(model, budget, floor, align)


def _check_floors(model: CostModel, budget: Budget, floor: Mapping[str, int], align: int) -> None:
    lowest = model.cost(floor)
    floors = tuple(
        Floor(
            bound=_WORDS[bound],
            lowest=_figure(lowest, bound, floor),
            set_by=model.largest(bound, floor),
            asked=asked,
        )
        for bound, asked in budget.bounds.items()
    )
    if any(each.asked < each.lowest for each in floors):
        raise UnreachableBudgetError(floors, align=align)


def _channels_to_remove(target: float, prunable: int, present: int, floor: int, align: int) -> int:
    # As in `choose_channels`: 0.07 * 100 = 7.000000000000001 must not become 8.
    needed = int(np.ceil(target * prunable - 1e-6)) - (prunable - present)
    if needed > present - floor:
        raise UnreachableTargetError(target, highest=(prunable - floor) / prunable, align=align)
    return max(needed, 0)


def _state_problem(
    model: CostModel, names: list[str], blocks: list[list[Block]], bounds: Mapping[str, float]
) -> Problem:
    """The bounds over the groups that have scores; the others' channels become part of what is fixed."""
    full = model.vector({})
    places = [0, *(1 + model.groups.index(name) for name in names)]
    # Columns of the groups without scores are multiplied out: x = fold @ (1, kept of the others ...).
    fold = np.zeros((len(full), len(places)))
    fold[:, 0] = full
    fold[places, 0] = 0.0
    fold[places, range(len(places))] = 1.0
    sums = []
    for bound, limit in bounds.items():
        if bound == "channels":
            matrix = np.zeros((len(places), len(places)))
            matrix[0, 1:] = matrix[1:, 0] = 0.5 / max(limit, 1)
            sums.append(matrix)
        elif bound not in model.memories:
            # Whole numbers are met when they round to the bound.
            sums.append(fold.T @ model.matrices[bound] @ fold / limit)
    memories = []
    for bound, plan in model.memories.items():
        if bound in bounds:
            limit = bounds[bound] / model.ram_factor
            memory = plan.folded(fold).restricted(limit, full[places])
            memories += [(memory, limit)] if memory.names else []
    return Problem(
        channels=[model.channels[place - 1] for place in places[1:]],
        blocks=blocks,
        matrices=np.array(sums).reshape(len(sums), len(places), len(places)),
        memories=memories,
    )


def _figure(cost: ModelCost, bound: str, kept: Mapping[str, int]) -> float:
    if bound == "channels":
        return sum(kept.values())
    figure: float | None = getattr(cost, bound)
    if figure is None:
        raise InputError("A latency bound needs to know how fast this machine is.", "edgeprune devices measure")
    return figure


def _show(bound: str, value: float) -> str:
    if bound == "latency":
        return f"{value:.3g} ms"
    return f"{value:,.0f}" + (" B" if bound in ("flash", "ram", "arena") else "")
