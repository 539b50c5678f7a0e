"""A level made by a budget: bounds that are met by the files that the level really becomes."""

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from edgeprune import __version__
from edgeprune.budget import Budget
from edgeprune.pipeline.baseline import Baseline, open_baseline
from edgeprune.pipeline.budget_cut import FILE_BOUNDS, cut_to_budget, survey_parent, with_margin
from edgeprune.pipeline.finished import open_level
from edgeprune.pipeline.level_int8 import require_mcu
from edgeprune.pipeline.levels import enter_journal, prune_to_schedule, stop_threshold
from edgeprune.pipeline.one_level import Source, make_level
from edgeprune.pipeline.planning import count_groups
from edgeprune.pipeline.records import RECORD, Inputs, LevelRecord, load_record
from edgeprune.pipeline.settings import budget_digest, for_budget
from edgeprune.pipeline.story import RunStory, opening_lines
from edgeprune.pipeline.teaching import teacher_path
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.plan.budget import require_reachable
from edgeprune.recipe import Recipe
from edgeprune.results import as_json
from edgeprune.runs import open_run
from edgeprune.schedule import level_id
from edgeprune.zoo import is_checkpoint


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

    Files of the smaller network are measured before anything is recovered, see ``cut_to_budget``. With
    ``prune.budget_steps`` there are levels on the way, by budgets of their own.

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
    if FILE_BOUNDS & budget.bounds.keys():
        require_mcu()
    baseline = open_baseline(recipe, workspace, reporter)
    parent = Source("dense", baseline.folder)
    if target is not None:
        prune_to_schedule(recipe, workspace, reporter, target=target)
        open_level(recipe, workspace, baseline, level_id(target), target)
        parent = Source(level_id(target), workspace.level_folder(recipe, level_id(target)))
    on_the_way = recipe.model_copy(update={"recover": recipe.recover.model_copy(update={"budget_epochs": None})})
    *steps, _ = _approach(recipe, workspace, baseline, parent, budget)
    for step in steps:
        outcome = _make_level(on_the_way, workspace, reporter, baseline, parent, budget=step, target=target)
        parent = Source(outcome.level, workspace.level_folder(recipe, outcome.level))
    return _make_level(for_budget(recipe), workspace, reporter, baseline, parent, budget=budget, target=target)


def _approach(
    recipe: Recipe, workspace: Workspace, baseline: Baseline, parent: Source, budget: Budget
) -> tuple[Budget, ...]:
    """The budgets that are cut to in turn; nothing is recovered on the way to one that cannot be met."""
    count = recipe.prune.budget_steps
    if count == 1:
        return (budget,)
    ground = survey_parent(recipe, workspace, baseline, parent, budget)
    require_reachable(ground.groups, ground.model, budget=with_margin(budget), align=recipe.prune.align)
    return budget.approached(as_json(ground.model.cost({})), steps=count)


def _make_level(
    recipe: Recipe,
    workspace: Workspace,
    reporter: Reporter,
    baseline: Baseline,
    parent: Source,
    *,
    budget: Budget,
    target: float | None,
) -> BudgetOutcome:
    """The level of one budget, cut from its parent and recovered, unless it is up to date."""
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
        cut=partial(cut_to_budget, recipe, workspace, baseline, parent, budget, prunable=prunable, story=story),
        folder=folder,
        story=story,
        reporter=reporter,
    )
    _close(recipe, workspace, record, budget, story)
    return BudgetOutcome(level=level, record=record, up_to_date=False, run=story.started().path, threshold=threshold)


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
