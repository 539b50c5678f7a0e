"""The schedule: prune, recalibrate and recover level after level, stop when the recipe says so, tell the story.

Every level is a folder that appears whole, keyed by everything that decides what it is. So an interrupted run goes on
after the last finished level, a run with nothing new to do is over at once, and both end with the same weights.
"""

import time
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from edgeprune import __version__
from edgeprune.audit import audit_cost
from edgeprune.dependencies import ChannelGroup
from edgeprune.errors import InputError, UnreachableTargetError
from edgeprune.files import staged_folder
from edgeprune.learning import EpochRecord, evaluate_network
from edgeprune.pipeline.baseline import (
    Baseline,
    augmentation,
    epoch_line,
    open_baseline,
    recalibrated,
    recovery_digest,
)
from edgeprune.pipeline.records import RECORD, Inputs, LevelRecord, load_record, save_record
from edgeprune.pipeline.story import RunStory, closing_table, state_facts
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.plan import choose_channels, find_groups, score_channels
from edgeprune.prune import remove_channels
from edgeprune.recipe import Recipe, level_id, schedule_up_to
from edgeprune.recover import learning_rate_for, recover_accuracy
from edgeprune.results import ChannelPlan, as_json
from edgeprune.runs import add_journal_entry, describe_changes, open_run, previous_config
from edgeprune.zoo import Checkpoint, checkpoint_digest, load_checkpoint, save_checkpoint


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneSummary:
    """How a prune run ended.

    Attributes:
        baseline: what it started from.
        prunable: channels in scope.
        outcomes: one a target, in schedule order.
        stopped: why the run stopped early, or an empty string.
        run: folder of the run, or None when every level was up to date.
    """

    baseline: Baseline
    prunable: int
    outcomes: tuple[Outcome, ...]
    stopped: str
    run: Path | None


@dataclass(frozen=True, slots=True)
class _Parent:
    """A checkpoint that a step starts from or learns from; rebuilt only when the step has work to do."""

    level: str
    folder: Path

    @property
    def weights(self) -> str:
        return checkpoint_digest(self.folder)

    def open(self, recipe: Recipe) -> Checkpoint:
        return load_checkpoint(self.folder, own_factory=recipe.model.network)


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
    count = cache(lambda: sum(group.channels for group in _census(recipe, baseline)))
    threshold = stop_threshold(recipe, baseline)
    story = RunStory(
        reporter,
        opening=lambda: _opening_lines(recipe, baseline, count(), threshold),
        start=lambda: open_run(
            workspace.runs, name=recipe.name, kind="prune", config_yaml=effective.to_yaml(), now=datetime.now()
        ),
    )
    teacher = _Parent("teacher", _teacher_folder(recipe, workspace, baseline))
    parent = _Parent("dense", baseline.folder)
    outcomes: list[Outcome] = []
    stopped = ""
    for step in targets:
        if stopped:
            outcomes.append(Outcome(target=step, record=None, reason=stopped))
            continue
        inputs = Inputs(
            edgeprune=__version__,
            recipe_part=recovery_digest(recipe),
            dataset=baseline.dataset.digest,
            parent=parent.weights,
            teacher=teacher.weights,
            target=step,
        )
        folder = workspace.level_folder(recipe, level_id(step))
        record = load_record(folder / RECORD, LevelRecord)
        fresh = record is not None and record.inputs == inputs and checkpoint_digest(folder) == record.weights
        if not fresh:
            try:
                record = _make_level(
                    recipe, baseline, parent, step, inputs=inputs, prunable=count(), teacher=teacher, folder=folder,
                    story=story, reporter=reporter,
                )  # fmt: skip
            except UnreachableTargetError as error:
                story.say(f"Target {step:.2%} is n/a: {error.problem}")
                outcomes.append(Outcome(target=step, record=None, reason=error.problem))
                continue
        assert record is not None
        if fresh:
            reporter.say(f"{record.level}: up to date ({record.val.accuracy.value:.4f} on val)")
        outcomes.append(Outcome(target=step, record=record, up_to_date=fresh))
        if record.val.accuracy.value < threshold:
            stopped = f"Stopping: accuracy {record.val.accuracy.value:.4f} below baseline threshold {threshold:.4f}."
            (reporter if fresh else story).say(stopped)
        parent = _Parent(record.level, folder)
    made = [outcome.record for outcome in outcomes if outcome.record is not None]
    summary = PruneSummary(
        baseline=baseline,
        prunable=made[0].plan.prunable if made else count(),
        outcomes=tuple(outcomes),
        stopped=stopped,
        run=story.run.path if story.run is not None else None,
    )
    _close(summary, effective, workspace, story, threshold)
    return summary


def preview_plans(recipe: Recipe, baseline: Baseline, *, target: float | None) -> tuple[ChannelPlan, ...]:
    """What each target would leave if all went at once from the unpruned weights; recovery changes later rankings."""
    census = _census(recipe, baseline)
    scores = score_channels(baseline.checkpoint.network, census, importance=recipe.prune.importance)
    return tuple(
        choose_channels(
            scores,
            target=step,
            prunable=sum(group.channels for group in census),
            importance=recipe.prune.importance,
            align=recipe.prune.align,
        )
        for step in schedule_up_to(recipe.prune.targets, target)
    )


def estimate_seconds(recipe: Recipe, baseline: Baseline, *, levels: int) -> float:
    """Upper bound of a schedule's wall time here, from a few training steps of the unpruned network.

    Args:
        recipe: its recovery is estimated.
        baseline: student and teacher of the trial.
        levels: how many would be made.
    """
    recover, data, train = recipe.recover, recipe.data, baseline.dataset.train
    few = min(len(train.labels), 4 * recover.batch_size)
    trial = replace(
        baseline.dataset,
        train=replace(train, images=train.images[:few], labels=train.labels[:few], names=train.names[:few]),
    )
    began = time.perf_counter()
    recover_accuracy(
        baseline.checkpoint.network,
        teacher=baseline.checkpoint.network,
        dataset=trial,
        mean=data.mean,
        std=data.std,
        alpha=recover.alpha,
        temperature=recover.temperature,
        epochs=1,
        patience=1,
        lr=recover.lr,
        batch_size=recover.batch_size,
        weight_decay=recover.weight_decay,
        bn_momentum=recipe.train.bn_momentum,
        augment=augmentation(recipe),
        seed=recipe.seed,
    )
    evaluation = baseline.dense.val.seconds
    per_image = max(time.perf_counter() - began - evaluation, 0.0) / few
    return levels * recover.epochs * (per_image * len(train.labels) + evaluation)


def stop_threshold(recipe: Recipe, baseline: Baseline) -> float:
    """Validation accuracy below which the schedule stops; 0 when the recipe sets no limit."""
    limits = [recipe.prune.min_accuracy or 0.0]
    if recipe.prune.max_drop is not None:
        limits.append(baseline.dense.val.accuracy.value - recipe.prune.max_drop)
    return max(limits)


def _census(recipe: Recipe, baseline: Baseline) -> tuple[ChannelGroup, ...]:
    return find_groups(
        baseline.checkpoint.network,
        image_size=baseline.checkpoint.spec.image_size,
        scope=recipe.prune.scope,
        protect=recipe.prune.protect,
    )


def _teacher_folder(recipe: Recipe, workspace: Workspace, baseline: Baseline) -> Path:
    if recipe.recover.teacher == "baseline":
        return baseline.folder
    return workspace.root / recipe.recover.teacher


def _open_teacher(recipe: Recipe, teacher: _Parent, baseline: Baseline) -> nn.Module:
    checkpoint = teacher.open(recipe)
    if checkpoint.classes != baseline.checkpoint.classes or checkpoint.spec.image_size != recipe.data.image_size:
        raise InputError(
            f"recover.teacher = {recipe.recover.teacher!r} answers {len(checkpoint.classes)} classes at "
            f"{checkpoint.spec.image_size} pixels, the student {len(baseline.checkpoint.classes)} at "
            f"{recipe.data.image_size}.",
            "a teacher trained on the same classes and size, or teacher: baseline",
        )
    return checkpoint.network


def _make_level(
    recipe: Recipe,
    baseline: Baseline,
    parent: _Parent,
    target: float,
    *,
    inputs: Inputs,
    prunable: int,
    teacher: _Parent,
    folder: Path,
    story: RunStory,
    reporter: Reporter,
) -> LevelRecord:
    began = time.perf_counter()
    prune, recover, data = recipe.prune, recipe.recover, recipe.data
    level, size, dataset = level_id(target), baseline.checkpoint.spec.image_size, baseline.dataset
    network = parent.open(recipe).network
    groups = find_groups(network, image_size=size, scope=prune.scope, protect=prune.protect)
    scores = score_channels(network, groups, importance=prune.importance)
    plan = choose_channels(scores, target=target, prunable=prunable, importance=prune.importance, align=prune.align)
    story.say("", "---", "")
    story.say(f"Pruning towards {target:.2%} global channel sparsity (expand convs only)")
    story.say(f"Removing {plan.removed_now} channels (cumulative fraction {plan.removed_before / prunable:.1%})")
    pruned = remove_channels(network, plan, image_size=size)
    story.say(f"Cumulative removed fraction: {plan.achieved:.1%}")
    story.say(f"Recalibrating BatchNorm statistics using the {recipe.recalibrate.split} loader...")
    pruned = recalibrated(recipe, dataset)(pruned)
    before = evaluate_network(pruned, dataset.val, mean=data.mean, std=data.std)
    story.say(f"Post-surgery pre-recovery accuracy: {before.accuracy.value:.4f}")
    lr = learning_rate_for(target, lr=recover.lr, lr_high=recover.lr_high, lr_high_threshold=recover.lr_high_threshold)

    def tell(epoch: EpochRecord) -> None:
        story.say(epoch_line(f"target {target:.1%}", epoch, recover.epochs))
        story.record(level=level, target=target, **as_json(epoch))

    with reporter.track(f"recovering {level}") as progress:
        fit = recover_accuracy(
            pruned,
            teacher=_open_teacher(recipe, teacher, baseline),
            dataset=dataset,
            mean=data.mean,
            std=data.std,
            alpha=recover.alpha,
            temperature=recover.temperature,
            epochs=recover.epochs,
            patience=recover.patience,
            lr=lr,
            batch_size=recover.batch_size,
            weight_decay=recover.weight_decay,
            bn_momentum=recipe.train.bn_momentum,
            augment=augmentation(recipe),
            seed=recipe.seed + round(target * 1_000_000),
            on_epoch=tell,
            progress=progress,
        )
    checkpoint = Checkpoint(
        network=fit.network,
        spec=baseline.checkpoint.spec,
        classes=baseline.checkpoint.classes,
        mean=data.mean,
        std=data.std,
    )
    val = evaluate_network(fit.network, dataset.val, mean=data.mean, std=data.std)
    test = evaluate_network(fit.network, dataset.test, mean=data.mean, std=data.std)
    with staged_folder(folder) as staging:
        save_checkpoint(staging, checkpoint)
        record = LevelRecord(
            inputs=inputs,
            level=level,
            parent_level=parent.level,
            weights=checkpoint_digest(staging),
            plan=plan,
            lr=lr,
            before_recovery=before,
            best_epoch=fit.best_epoch,
            epochs=fit.epochs,
            val=val,
            test=test,
            cost=audit_cost(fit.network, image_size=size, weights_file=staging / "model.safetensors"),
            run=story.started().id,
            seconds=time.perf_counter() - began,
        )
        save_record(staging / RECORD, record)
    story.say(
        f"Best recovery epoch {fit.best_epoch}: val acc {fit.epochs[fit.best_epoch - 1].val_accuracy:.4f} | "
        f"final eval {val.accuracy.value:.4f}"
    )
    story.record(level=level, target=target, achieved=plan.achieved, val=val.accuracy.value, test=test.accuracy.value)
    return record


def _opening_lines(recipe: Recipe, baseline: Baseline, prunable: int, threshold: float) -> tuple[str, ...]:
    dense, recover, prune = baseline.dense, recipe.recover, recipe.prune
    cost = dense.cost
    return (
        f"Total prunable channels (expand convs): {prunable}",
        f"Baseline accuracy: {dense.val.accuracy.value:.4f} (eval {dense.val.seconds:.1f}s)",
        f"Baseline complexity: params={cost.params:,} ({cost.params / 1e6:.2f}M) | "
        f"MACs={cost.macs_thop:,} ({cost.macs_thop / 1e6:.2f}M) by thop, {cost.macs:,} by fvcore",
        f"Effective values: importance={prune.importance} align={prune.align} alpha={recover.alpha} "
        f"temperature={recover.temperature} epochs={recover.epochs} patience={recover.patience} lr={recover.lr} "
        f"lr_high={recover.lr_high} from {recover.lr_high_threshold} recalibration={recipe.recalibrate.split} "
        f"teacher={recover.teacher} threshold={threshold:.4f} seed={recipe.seed}",
    )


def _close(summary: PruneSummary, effective: Recipe, workspace: Workspace, story: RunStory, threshold: float) -> None:
    if story.run is None:
        return
    rows = [(outcome.target, outcome.record, outcome.reason) for outcome in summary.outcomes]
    table = closing_table(rows)
    facts = state_facts(rows, baseline=summary.baseline.dense.val.accuracy.value, threshold=threshold)
    story.say("", *table)
    results: dict[str, Any] = {
        "run": story.run.id,
        "recipe_digest": effective.digest,
        "data_digest": summary.baseline.dataset.digest,
        "split_digest": summary.baseline.dataset.split_digest,
        "baseline": as_json(summary.baseline.dense),
        "prunable_channels": summary.prunable,
        "threshold": threshold,
        "stopped": summary.stopped,
        "levels": [
            {
                "target": outcome.target,
                "level": level_id(outcome.target),
                "achieved": outcome.record.plan.achieved if outcome.record else None,
                "val_accuracy": outcome.record.val.accuracy.value if outcome.record else None,
                "test_accuracy": outcome.record.test.accuracy.value if outcome.record else None,
                "test_n": outcome.record.test.accuracy.n if outcome.record else None,
                "test_interval": list(outcome.record.test.accuracy.interval) if outcome.record else None,
                "reason": outcome.reason,
            }
            for outcome in summary.outcomes
        ],
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
