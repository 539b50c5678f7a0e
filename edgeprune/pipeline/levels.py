"""The schedule: prune, recalibrate and recover level after level, stop when the recipe says so, tell the story.

Every level is a folder that appears whole, keyed by everything that decides what it is. So an interrupted run goes on
after the last finished level, a run with nothing new to do is over at once, and both end with the same weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from edgeprune.errors import UnreachableTargetError
from edgeprune.pipeline.baseline import Baseline, open_baseline
from edgeprune.pipeline.compact import open_compact
from edgeprune.pipeline.course import Course
from edgeprune.pipeline.one_level import cut_to_target, make_level
from edgeprune.pipeline.planning import count_groups
from edgeprune.pipeline.records import LevelRecord
from edgeprune.pipeline.story import RunStory, closing_table, opening_lines, state_facts
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.recipe import Recipe
from edgeprune.results import as_json
from edgeprune.runs import add_journal_entry, describe_changes, open_run, previous_config, unfinished_run
from edgeprune.schedule import level_id, plan_steps, schedule_up_to


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
    targets = schedule_up_to(plan_steps(recipe.prune.schedule, recipe.prune.targets, recipe.prune.steps), target)
    # What runs is what is saved: the steps as numbers, whatever rule made them.
    steps_only = {"targets": targets, "schedule": "explicit"}
    effective = recipe.model_copy(update={"prune": recipe.prune.model_copy(update=steps_only)})
    baseline = open_baseline(recipe, workspace, reporter)
    prunable = cache(lambda: sum(group.channels for group in count_groups(recipe, baseline.checkpoint.network)))
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
    course = Course(recipe, workspace, baseline)
    if recipe.prune.compact:
        course.start_at(open_compact(recipe, workspace, baseline, story=story, reporter=reporter))
    outcomes: list[Outcome] = []
    stopped = ""
    ahead = list(targets)
    while ahead:
        step = ahead.pop(0)
        if stopped:
            outcomes.append(Outcome(target=step, record=None, reason=stopped))
            continue
        record = course.finished(step)
        fresh = record is not None
        if record is None:
            finer = course.finer_steps(step)
            if finer:
                ahead = [*finer, *ahead]  # an earlier run found this step too large
                continue
            try:
                record = make_level(
                    recipe,
                    baseline,
                    parent=course.parent,
                    teacher=course.teacher,
                    inputs=course.inputs(step),
                    cut=partial(
                        cut_to_target,
                        recipe,
                        course.parent,
                        baseline.dataset,
                        step,
                        prunable=prunable(),
                        left=course.left,
                        story=story,
                    ),
                    folder=course.folder(step),
                    story=story,
                    reporter=reporter,
                )
            except UnreachableTargetError as error:
                # Only a run that makes something has a directory, or every repetition would leave one.
                (story if story.run is not None else reporter).say(f"Target {step:.2%} is n/a: {error.problem}")
                outcomes.append(Outcome(target=step, record=None, reason=error.problem))
                continue
        if fresh:
            reporter.say(f"{record.level}: up to date ({record.val.accuracy.value:.4f} on val)")
        halves = course.halve(step, record)
        if halves:
            (reporter if fresh else story).say(
                f"Step to {step:.2%} lost {course.accuracy - record.val.accuracy.value:.4f}, more than "
                f"{recipe.prune.max_step_drop}: going by {halves[0]:.2%}."
            )
            ahead = [*halves, *ahead]
            continue
        outcomes.append(Outcome(target=step, record=record, up_to_date=fresh))
        if record.val.accuracy.value < threshold:
            stopped = f"Stopping: accuracy {record.val.accuracy.value:.4f} below baseline threshold {threshold:.4f}."
            (reporter if fresh else story).say(stopped)
        course.advance(record)
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
    enter_journal(effective, workspace, story, result=table, analysis=facts)
    story.run.finish(results)


def enter_journal(
    recipe: Recipe, workspace: Workspace, story: RunStory, *, result: Sequence[str], analysis: Sequence[str]
) -> None:
    """Add a run to the journal, with what its recipe changed against the run before."""
    run = story.started()
    before = previous_config(workspace.runs, run)
    changed = [] if before is None else describe_changes(before, recipe.model_dump(mode="json"))
    add_journal_entry(
        workspace.journal,
        run=run,
        goal=recipe.goal,
        changes="(first run)" if before is None else "\n".join(changed) or "(none)",
        result=(*story.opening(), "", *result),
        analysis=analysis,
    )
