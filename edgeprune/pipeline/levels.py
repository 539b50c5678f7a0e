"""The schedule: prune, recalibrate and recover level after level, stop when the recipe says so, tell the story.

Every level is a folder that appears whole, keyed by everything that decides what it is. So an interrupted run goes on
after the last finished level, a run with nothing new to do is over at once, and both end with the same weights.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from edgeprune import __version__
from edgeprune.errors import UnreachableTargetError
from edgeprune.pipeline.baseline import Baseline, open_baseline, teacher_folder
from edgeprune.pipeline.one_level import Source, make_level
from edgeprune.pipeline.records import RECORD, Inputs, LevelRecord, load_record
from edgeprune.pipeline.settings import recovery_digest
from edgeprune.pipeline.story import RunStory, closing_table, opening_lines, state_facts
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.plan import find_groups
from edgeprune.recipe import Recipe
from edgeprune.results import as_json
from edgeprune.runs import add_journal_entry, describe_changes, open_run, previous_config, unfinished_run
from edgeprune.schedule import level_id, schedule_up_to
from edgeprune.zoo import is_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One line of the closing table.

    Attributes:
        target: channel sparsity asked for.
        record: the level, or None when there is none.
        reason: why there is none.
        up_to_date: the level was there already.
    """

    target: float
    record: LevelRecord | None
    reason: str = ""
    up_to_date: bool = False

    def as_values(self) -> dict[str, Any]:
        """The line as JSON values, for results.json and ``--json``."""
        values: dict[str, Any] = {
            "target": self.target,
            "level": level_id(self.target),
            "reason": self.reason,
            "up_to_date": self.up_to_date,
        }
        if self.record is not None:
            values |= {
                "achieved": self.record.plan.achieved,
                "val_accuracy": self.record.val.accuracy.value,
                "test_accuracy": self.record.test.accuracy.value,
                "test_n": self.record.test.accuracy.n,
                "test_interval": list(self.record.test.accuracy.interval),
                "params": self.record.cost.params,
                "macs_fvcore": self.record.cost.macs,
            }
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneSummary:
    """How a prune run ended.

    Attributes:
        baseline: what it started from.
        prunable: channels in scope.
        outcomes: one a target, in schedule order.
        threshold: validation accuracy below which the schedule stops.
        stopped: why the run stopped early, or an empty string.
        run: folder of the run, or None when every level was up to date.
    """

    baseline: Baseline
    prunable: int
    outcomes: tuple[Outcome, ...]
    threshold: float
    stopped: str
    run: Path | None


def prune_to_schedule(
    recipe: Recipe, workspace: Workspace, reporter: Reporter, *, target: float | None = None
) -> PruneSummary:
    """Make every level of the recipe's schedule up to a target, unless it is up to date.

    Args:
        recipe: what to do.
        workspace: where things lie.
        reporter: is told the log's lines and the progress.
        target: cuts the schedule; appended when it is not one of its steps.

    Raises:
        InputError: the recipe, the data or the baseline cannot be used.
    """
    targets = schedule_up_to(recipe.prune.targets, target)
    effective = recipe.model_copy(update={"prune": recipe.prune.model_copy(update={"targets": targets})})
    baseline = open_baseline(recipe, workspace, reporter)
    prunable = cache(lambda: _count_prunable(recipe, baseline))
    threshold = stop_threshold(recipe, baseline)
    story = RunStory(
        reporter,
        opening=lambda: opening_lines(recipe, baseline.dense, prunable=prunable(), threshold=threshold),
        start=lambda: open_run(
            workspace.runs, name=recipe.name, kind="prune", config_yaml=effective.to_yaml(), now=datetime.now()
        ),
    )
    if unfinished_run(workspace.runs, name=recipe.name, kind="prune", config_yaml=effective.to_yaml()):
        # Interrupted between the last level and the closing table, it still owes its results.
        story.started()
    teacher = Source("teacher", teacher_folder(recipe, workspace))
    parent = Source("dense", baseline.folder)
    recipe_part, teacher_weights = recovery_digest(recipe), teacher.weights
    outcomes: list[Outcome] = []
    stopped = ""
    for step in targets:
        if stopped:
            outcomes.append(Outcome(target=step, record=None, reason=stopped))
            continue
        inputs = Inputs(
            edgeprune=__version__,
            recipe_part=recipe_part,
            dataset=baseline.dataset.digest,
            parent=parent.weights,
            baseline=baseline.weights,
            teacher=teacher_weights,
            target=step,
        )
        folder = workspace.level_folder(recipe, level_id(step))
        record = load_record(folder / RECORD, LevelRecord)
        fresh = record is not None and record.inputs == inputs and is_checkpoint(folder, record.weights)
        if not fresh:
            try:
                record = make_level(
                    recipe,
                    baseline,
                    parent=parent,
                    teacher=teacher,
                    inputs=inputs,
                    prunable=prunable(),
                    folder=folder,
                    story=story,
                    reporter=reporter,
                )
            except UnreachableTargetError as error:
                # Only a run that makes something has a directory, or every repetition would leave one.
                (story if story.run is not None else reporter).say(f"Target {step:.2%} is n/a: {error.problem}")
                outcomes.append(Outcome(target=step, record=None, reason=error.problem))
                continue
        assert record is not None
        if fresh:
            reporter.say(f"{record.level}: up to date ({record.val.accuracy.value:.4f} on val)")
        outcomes.append(Outcome(target=step, record=record, up_to_date=fresh))
        if record.val.accuracy.value < threshold:
            stopped = f"Stopping: accuracy {record.val.accuracy.value:.4f} below baseline threshold {threshold:.4f}."
            (reporter if fresh else story).say(stopped)
        parent = Source(record.level, folder)
    made = [outcome.record for outcome in outcomes if outcome.record is not None]
    summary = PruneSummary(
        baseline=baseline,
        prunable=made[0].plan.prunable if made else prunable(),
        outcomes=tuple(outcomes),
        threshold=threshold,
        stopped=stopped,
        run=story.run.path if story.run is not None else None,
    )
    _close(summary, effective, workspace, story)
    return summary


def stop_threshold(recipe: Recipe, baseline: Baseline) -> float:
    """Validation accuracy below which the schedule stops; 0 when the recipe sets no limit."""
    limits = [recipe.prune.min_accuracy or 0.0]
    if recipe.prune.max_drop is not None:
        limits.append(baseline.dense.val.accuracy.value - recipe.prune.max_drop)
    return max(limits)


def _count_prunable(recipe: Recipe, baseline: Baseline) -> int:
    groups = find_groups(
        baseline.checkpoint.network,
        image_size=recipe.data.image_size,
        scope=recipe.prune.scope,
        protect=recipe.prune.protect,
    )
    return sum(group.channels for group in groups)


def _close(summary: PruneSummary, effective: Recipe, workspace: Workspace, story: RunStory) -> None:
    if story.run is None:
        return
    rows = [(outcome.target, outcome.record, outcome.reason) for outcome in summary.outcomes]
    table = closing_table(rows)
    facts = state_facts(rows, baseline=summary.baseline.dense.val.accuracy.value, threshold=summary.threshold)
    story.say("", *table)
    results: dict[str, Any] = {
        "run": story.run.id,
        "recipe_digest": effective.digest,
        "data_digest": summary.baseline.dataset.digest,
        "split_digest": summary.baseline.dataset.split_digest,
        "baseline": as_json(summary.baseline.dense),
        "prunable_channels": summary.prunable,
        "threshold": summary.threshold,
        "stopped": summary.stopped,
        "levels": [outcome.as_values() for outcome in summary.outcomes],
    }
    values = effective.model_dump(mode="json")
    before = previous_config(workspace.runs, story.run)
    changes = "(first run)" if before is None else "\n".join(describe_changes(before, values)) or "(none)"
    add_journal_entry(
        workspace.journal,
        run=story.run,
        goal=effective.goal,
        changes=changes,
        result=(*story.opening(), "", *table),
        analysis=facts,
    )
    story.run.finish(results)
