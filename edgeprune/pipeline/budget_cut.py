"""A cut that meets a budget by the files that the level really becomes."""

from dataclasses import dataclass, replace

from torch import nn

from edgeprune.budget import Budget
from edgeprune.dependencies import ChannelGroup
from edgeprune.errors import EdgepruneError, InputError
from edgeprune.pipeline.baseline import Baseline
from edgeprune.pipeline.candidates import describe_level
from edgeprune.pipeline.latency_table import measure_network_ms, open_latency_table, probe_images
from edgeprune.pipeline.one_level import Cut, Source, level_seed
from edgeprune.pipeline.planning import count_groups, score_groups
from edgeprune.pipeline.story import RunStory
from edgeprune.pipeline.structure import measure_structure
from edgeprune.pipeline.workspace import Workspace
from edgeprune.plan.budget import Solution, solve_budget
from edgeprune.plan.cost_model import CostModel, LatencyTable, ModelCost, trace_costs
from edgeprune.prune import remove_channels
from edgeprune.recipe import Recipe
from edgeprune.zoo import Checkpoint

# Bounds that only a file tells.
FILE_BOUNDS = frozenset({"flash_bytes", "ram_bytes", "arena_bytes"})
# Each round corrects the cost model by what the file before came to; one or two are enough in practice.
_ROUNDS = 5
_LATENCY_MARGIN = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a budget's plan is solved on.

    Attributes:
        checkpoint: of the parent.
        groups: its census.
        model: of its costs.
    """

    checkpoint: Checkpoint
    groups: tuple[ChannelGroup, ...]
    model: CostModel


def survey_parent(recipe: Recipe, workspace: Workspace, baseline: Baseline, parent: Source, budget: Budget) -> Ground:
    """Census and costs of a network that is about to be cut.

    Raises:
        InputError: a bound on latency, and this machine has not been measured.
    """
    latencies = _open_latencies(recipe, workspace, baseline, budget)
    checkpoint = parent.open_for_cutting(recipe)
    groups = count_groups(recipe, checkpoint.network)
    model = trace_costs(
        checkpoint.network,
        groups,
        image_size=recipe.data.image_size,
        rotate=recipe.export.pad == "rotate",
        split_peak=recipe.quantise.split_peak,
    )
    return Ground(
        checkpoint=checkpoint, groups=groups, model=model if latencies is None else model.with_latency(latencies)
    )


def cut_to_budget(
    recipe: Recipe,
    workspace: Workspace,
    baseline: Baseline,
    parent: Source,
    budget: Budget,
    *,
    prunable: int,
    story: RunStory,
) -> Cut:
    """Cut a level's channels from its parent until the int8 file meets every bound.

    The plan is solved on a cost model; where the file misses a bound, the model is corrected by what was measured, and
    solved again.

    Args:
        recipe: scope, importance, alignment.
        workspace, baseline: where things lie, and the images.
        parent: what is cut.
        budget: what is met.
        prunable: channels of the unpruned network.
        story: is told the plans.

    Raises:
        UnreachableBudgetError: with one block left in every group a bound is still too low.
        EdgepruneError: plan after plan missed it.
    """
    ground = survey_parent(recipe, workspace, baseline, parent, budget)
    model, groups, network = ground.model, ground.groups, ground.checkpoint.network
    seed = level_seed(recipe, int(budget.digest, 16) / 2**32)
    scores = score_groups(recipe, network, groups, baseline.dataset, seed=seed)
    story.say("", "---", "", f"Pruning to the budget {budget}")
    for _ in range(_ROUNDS):
        solution = solve_budget(
            scores,
            model,
            budget=with_margin(budget),
            importance=recipe.prune.importance,
            align=recipe.prune.align,
            units={group.layer: group.unit for group in groups},
            prunable=prunable,
        )
        small = remove_channels(network, groups, solution.plan, image_size=recipe.data.image_size)
        real = _measure(recipe, baseline, small, solution, budget)
        story.say(_describe(solution, real))
        if all(getattr(real, name) <= bound for name, bound in budget.bounds.items()):
            return Cut(
                level=budget.level,
                title=f"budget {budget}",
                sparsity=solution.plan.achieved,
                plan=solution.plan,
                network=small,
                checkpoint=ground.checkpoint,
            )
        model = model.calibrated(real=real, predicted=solution.cost)
    raise EdgepruneError(f"{_ROUNDS} plans in turn missed the budget {budget}.", "bounds with a little more room")


def _open_latencies(recipe: Recipe, workspace: Workspace, baseline: Baseline, budget: Budget) -> LatencyTable | None:
    if budget.latency_ms is None:
        return None
    measured = open_latency_table(recipe, workspace, baseline.weights)
    if measured is None:
        raise InputError(
            f"latency={budget.latency_ms:g}ms: this machine has not been measured with this network.",
            "edgeprune devices measure with the same recipe",
        )
    return measured.table()


def with_margin(budget: Budget) -> Budget:
    """What is planned for: no machine takes the same time twice."""
    if budget.latency_ms is None:
        return budget
    return replace(budget, latency_ms=budget.latency_ms * (1 - _LATENCY_MARGIN))


def _measure(recipe: Recipe, baseline: Baseline, small: nn.Module, solution: Solution, budget: Budget) -> ModelCost:
    real = solution.cost
    if FILE_BOUNDS & budget.bounds.keys():
        metadata = describe_level(recipe, baseline, None, layout="NHWC RGB int8", macs=solution.cost.macs)
        whole_arena = budget.arena_bytes is not None
        found = measure_structure(recipe, small, baseline.dataset, metadata, whole_arena=whole_arena)
        real = replace(
            real,
            flash_bytes=found.flash_bytes,
            ram_bytes=found.ram_bytes,
            ram_at=found.ram_at,
            arena_bytes=found.ram_bytes + found.rest_bytes if whole_arena else solution.cost.arena_bytes,
        )
    if budget.latency_ms is not None:
        real = replace(real, latency_ms=measure_network_ms(recipe, small, probe_images(recipe, baseline)))
    return real


def _describe(solution: Solution, real: ModelCost) -> str:
    cost = solution.cost
    return (
        f"Plan: {solution.plan.achieved:.1%} of the channels go, {solution.kept_importance:.1%} of the importance "
        f"stays; {solution.binding or 'nothing'} binds{f' at {solution.binding_at}' if solution.binding else ''}; "
        f"flash {real.flash_bytes:,} B (planned {cost.flash_bytes:,}), RAM {real.ram_bytes:,} B (planned "
        f"{cost.ram_bytes:,}), arena {real.arena_bytes:,} B (planned {cost.arena_bytes:,}), "
        f"{cost.macs:,} MACs, {cost.params:,} parameters"
        + (f", {real.latency_ms:.3f} ms (planned {cost.latency_ms:.3f})" if real.latency_ms and cost.latency_ms else "")
    )
