"""A level made by a budget: bounds that are met by the files that the level really becomes."""

from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from torch import nn

from edgeprune import __version__
from edgeprune.budget import Budget
from edgeprune.errors import EdgepruneError, InputError
from edgeprune.pipeline.baseline import Baseline, open_baseline
from edgeprune.pipeline.candidates import describe_level
from edgeprune.pipeline.finished import open_level
from edgeprune.pipeline.latency_table import measure_network_ms, open_latency_table, probe_images
from edgeprune.pipeline.level_int8 import require_mcu
from edgeprune.pipeline.levels import enter_journal, prune_to_schedule, stop_threshold
from edgeprune.pipeline.one_level import Cut, Source, level_seed, make_level
from edgeprune.pipeline.planning import count_groups, score_groups
from edgeprune.pipeline.records import RECORD, Inputs, LevelRecord, load_record
from edgeprune.pipeline.settings import budget_digest, for_budget
from edgeprune.pipeline.story import RunStory, opening_lines
from edgeprune.pipeline.structure import measure_structure
from edgeprune.pipeline.teaching import teacher_path
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.plan.budget import Solution, solve_budget
from edgeprune.plan.cost_model import LatencyTable, ModelCost, trace_costs
from edgeprune.prune import remove_channels
from edgeprune.recipe import Recipe
from edgeprune.results import as_json
from edgeprune.runs import open_run
from edgeprune.schedule import level_id
from edgeprune.zoo import is_checkpoint

# Each round corrects the cost model by what the file before came to; one or two are enough in practice.
_ROUNDS = 5
_LATENCY_MARGIN = 0.03
_FILE_BOUNDS = {"flash_bytes", "ram_bytes", "arena_bytes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetOutcome:
    """The level of a budget.

    Attributes:
        level: its id.
        record: how it was made, and how it did.
        up_to_date: it was there already.
        run: folder of the run, or None when the level was up to date.
        threshold: validation accuracy below which the recipe would stop.
    """

    level: str
    record: LevelRecord
    up_to_date: bool
    run: Path | None
    threshold: float


def prune_to_budget(
    recipe: Recipe, workspace: Workspace, reporter: Reporter, *, budget: Budget, target: float | None = None
) -> BudgetOutcome:
    """Make the level of a budget, unless it is up to date.

    The plan is solved on a cost model. Then the int8 file of the smaller network is written and measured before
    anything is recovered; where it misses a bound, the model is corrected by what was measured, and solved again.

    Args:
        recipe: scope, importance, recovery.
        workspace: where things lie.
        reporter: is told the log's lines and the progress.
        budget: at least one bound; flash and RAM are those of the int8 file.
        target: channel sparsity that is pruned to first, step by step; the budget then cuts on from there.

    Raises:
        UnreachableBudgetError: with one block left in every group a bound is still too low.
        InputError: the recipe, the data or the baseline cannot be used, or the bound cannot be measured here.
    """
    if _FILE_BOUNDS & budget.bounds.keys():
        require_mcu()
    baseline = open_baseline(recipe, workspace, reporter)
    parent = Source("dense", baseline.folder)
    if target is not None:
        prune_to_schedule(recipe, workspace, reporter, target=target)
        open_level(recipe, workspace, baseline, level_id(target), target)
        parent = Source(level_id(target), workspace.level_folder(recipe, level_id(target)))
    recipe = for_budget(recipe)
    level = budget.level
    follows_parent = recipe.recover.teacher == "previous"
    teacher = parent if follows_parent else Source("teacher", teacher_path(recipe, workspace))
    inputs = Inputs(
        edgeprune=__version__,
        recipe_part=budget_digest(recipe),
        dataset=baseline.dataset.digest,
        parent=parent.weights,
        baseline=baseline.weights,
        teacher=teacher.weights,
        target=target or 0.0,
        budget=str(budget),
    )
    folder = workspace.level_folder(recipe, level)
    threshold = stop_threshold(recipe, baseline)
    kept = load_record(folder / RECORD, LevelRecord)
    if kept is not None and kept.inputs == inputs and is_checkpoint(folder, kept.weights):
        reporter.say(f"{level}: up to date ({kept.val.accuracy.value:.4f} on val)")
        return BudgetOutcome(level=level, record=kept, up_to_date=True, run=None, threshold=threshold)
    latencies = _open_latencies(recipe, workspace, baseline, budget)
    prunable = sum(group.channels for group in count_groups(recipe, baseline.checkpoint.network))
    story = RunStory(
        reporter,
        opening=lambda: opening_lines(recipe, baseline.dense, prunable=prunable, threshold=threshold),
        start=lambda: open_run(
            workspace.runs, name=recipe.name, kind="budget", config_yaml=recipe.to_yaml(), now=datetime.now()
        ),
    )
    record = make_level(
        recipe,
        baseline,
        parent=parent,
        teacher=teacher,
        inputs=inputs,
        cut=partial(
            _cut_to_budget, recipe, baseline, parent, budget, latencies, level=level, prunable=prunable, story=story
        ),
        folder=folder,
        story=story,
        reporter=reporter,
    )
    _close(recipe, workspace, record, budget, story)
    return BudgetOutcome(level=level, record=record, up_to_date=False, run=story.started().path, threshold=threshold)


def _cut_to_budget(
    recipe: Recipe,
    baseline: Baseline,
    parent: Source,
    budget: Budget,
    latencies: LatencyTable | None,
    *,
    level: str,
    prunable: int,
    story: RunStory,
) -> Cut:
    checkpoint = parent.open_for_cutting(recipe)
    network, size, prune = checkpoint.network, recipe.data.image_size, recipe.prune
    groups = count_groups(recipe, network)
    seed = level_seed(recipe, int(budget.digest, 16) / 2**32)
    scores = score_groups(recipe, network, groups, baseline.dataset, seed=seed)
    model = trace_costs(
        network,
        groups,
        image_size=size,
        rotate=recipe.export.pad == "rotate",
        split_peak=recipe.quantise.split_peak,
    )
    if latencies is not None:
        model = model.with_latency(latencies)
    story.say("", "---", "", f"Pruning to the budget {budget}")
    units = {group.layer: group.unit for group in groups}
    for _ in range(_ROUNDS):
        solution = solve_budget(
            scores,
            model,
            budget=_with_margin(budget),
            importance=prune.importance,
            align=prune.align,
            units=units,
            prunable=prunable,
        )
        small = remove_channels(network, groups, solution.plan, image_size=size)
        real = _measure(recipe, baseline, small, solution, budget)
        story.say(_describe(solution, real))
        if all(getattr(real, name) <= bound for name, bound in budget.bounds.items()):
            return Cut(
                level=level,
                title=f"budget {budget}",
                sparsity=solution.plan.achieved,
                plan=solution.plan,
                network=small,
                checkpoint=checkpoint,
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


def _with_margin(budget: Budget) -> Budget:
    """What is planned for: no machine takes the same time twice."""
    if budget.latency_ms is None:
        return budget
    return replace(budget, latency_ms=budget.latency_ms * (1 - _LATENCY_MARGIN))


def _measure(recipe: Recipe, baseline: Baseline, small: nn.Module, solution: Solution, budget: Budget) -> ModelCost:
    real = solution.cost
    if _FILE_BOUNDS & budget.bounds.keys():
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


def _close(recipe: Recipe, workspace: Workspace, record: LevelRecord, budget: Budget, story: RunStory) -> None:
    line = f"{budget}: {record.test.accuracy} on test"
    story.say("", line)
    enter_journal(
        recipe,
        workspace,
        story,
        result=[line],
        analysis=[f"{record.cost.macs:,} MACs (fvcore), {record.cost.params:,} parameters."],
    )
    run = story.started()
    run.finish({"run": run.id, "recipe_digest": recipe.digest, "budget": str(budget), "level": as_json(record)})
