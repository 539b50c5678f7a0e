"""One level: plan, surgery, recalibration, recovery, and the folder that keeps it."""

import time
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgeprune.audit import audit_cost
from edgeprune.errors import InputError
from edgeprune.evaluation import evaluate_network
from edgeprune.files import staged_folder
from edgeprune.learning import EpochRecord, Fit
from edgeprune.pipeline.baseline import Baseline
from edgeprune.pipeline.records import RECORD, Inputs, LevelRecord, require_ours, save_record
from edgeprune.pipeline.settings import recalibrate, recover
from edgeprune.pipeline.story import RunStory, epoch_line
from edgeprune.pipeline.workspace import Reporter
from edgeprune.plan import choose_channels, find_groups, score_channels
from edgeprune.prune import remove_channels
from edgeprune.recipe import Recipe
from edgeprune.recover import learning_rate_for
from edgeprune.results import ChannelPlan, as_json
from edgeprune.schedule import level_id
from edgeprune.zoo import Checkpoint, checkpoint_digest, load_checkpoint, save_checkpoint


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint that a level is cut from or learns from; rebuilt only when there is work to do."""

    level: str
    folder: Path

    @property
    def weights(self) -> str:
        """Digest of its weights file."""
        return checkpoint_digest(self.folder)

    def open(self, recipe: Recipe) -> Checkpoint:
        """The checkpoint itself."""
        return load_checkpoint(self.folder, own_factory=recipe.model.network)


def make_level(
    recipe: Recipe,
    baseline: Baseline,
    *,
    parent: Source,
    teacher: Source,
    inputs: Inputs,
    prunable: int,
    folder: Path,
    story: RunStory,
    reporter: Reporter,
) -> LevelRecord:
    """Cut a level from its parent, recover it, and keep it as a folder that appears whole.

    Args:
        recipe: how.
        baseline: data set, and the network that the level descends from.
        parent: the level before, or the unpruned network.
        teacher: what recovery learns from.
        inputs: everything that decides the result; its ``target`` is the level's.
        prunable: channels of the unpruned network.
        folder: where the level appears.
        story: is told the log's lines.
        reporter: is told progress.

    Raises:
        UnreachableTargetError: the target asks for more than can be removed.
        InputError: the teacher answers other classes or another size.
    """
    began = time.perf_counter()
    require_ours(folder)
    data, level, dataset = recipe.data, level_id(inputs.target), baseline.dataset
    teaching = _open_teacher(recipe, teacher, baseline)
    plan, pruned = _cut(recipe, parent, inputs.target, prunable=prunable, story=story)
    story.say(f"Recalibrating BatchNorm statistics using the {recipe.recalibrate.split} loader...")
    pruned = recalibrate(recipe, pruned, dataset)
    before = evaluate_network(pruned, dataset.val, mean=data.mean, std=data.std)
    story.say(f"Post-surgery pre-recovery accuracy: {before.accuracy.value:.4f}")
    lr = learning_rate_for(
        inputs.target,
        lr=recipe.recover.lr,
        lr_high=recipe.recover.lr_high,
        lr_high_threshold=recipe.recover.lr_high_threshold,
    )

    def tell(epoch: EpochRecord) -> None:
        story.say(epoch_line(f"target {inputs.target:.1%}", epoch, recipe.recover.epochs))
        story.record(level=level, target=inputs.target, **as_json(epoch))

    with reporter.track(f"recovering {level}") as progress:
        fit = recover(
            recipe,
            pruned,
            teacher=teaching,
            dataset=dataset,
            lr=lr,
            # Every level draws its own numbers, whichever levels were made before it in this process.
            seed=recipe.seed + round(inputs.target * 1_000_000),
            on_epoch=tell,
            progress=progress,
        )
    checkpoint = Checkpoint(
        network=fit.network,
        spec=parent.open(recipe).spec,
        classes=dataset.classes,
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
            cost=audit_cost(fit.network, image_size=data.image_size, weights_file=staging / "model.safetensors"),
            run=story.started().id,
            seconds=time.perf_counter() - began,
        )
        save_record(staging / RECORD, record)
    _tell_end(record, fit, story)
    return record


def _cut(
    recipe: Recipe, parent: Source, target: float, *, prunable: int, story: RunStory
) -> tuple[ChannelPlan, nn.Module]:
    prune, size = recipe.prune, recipe.data.image_size
    network = parent.open(recipe).network
    groups = find_groups(network, image_size=size, scope=prune.scope, protect=prune.protect)
    scores = score_channels(network, groups, importance=prune.importance)
    plan = choose_channels(scores, target=target, prunable=prunable, importance=prune.importance, align=prune.align)
    story.say("", "---", "")
    story.say(f"Pruning towards {target:.2%} global channel sparsity ({prune.scope} convs only)")
    story.say(f"Removing {plan.removed_now} channels (cumulative fraction {plan.removed_before / prunable:.1%})")
    pruned = remove_channels(network, plan, image_size=size)
    story.say(f"Cumulative removed fraction: {plan.achieved:.1%}")
    return plan, pruned


def _open_teacher(recipe: Recipe, teacher: Source, baseline: Baseline) -> nn.Module:
    checkpoint = teacher.open(recipe)
    classes, size = baseline.dataset.classes, recipe.data.image_size
    if (checkpoint.mean, checkpoint.std) != (recipe.data.mean, recipe.data.std):
        raise InputError(
            f"recover.teacher = {recipe.recover.teacher!r} was trained with mean {list(checkpoint.mean)} and std "
            f"{list(checkpoint.std)}, the recipe has {list(recipe.data.mean)} and {list(recipe.data.std)}.",
            "a teacher with the same normalisation, or teacher: baseline",
        )
    if checkpoint.classes != classes or checkpoint.spec.image_size != size:
        raise InputError(
            f"recover.teacher = {recipe.recover.teacher!r} answers {len(checkpoint.classes)} classes at "
            f"{checkpoint.spec.image_size} pixels, the student {len(classes)} at {size}.",
            "a teacher trained on the same classes and size, or teacher: baseline",
        )
    return checkpoint.network


def _tell_end(record: LevelRecord, fit: Fit, story: RunStory) -> None:
    best = fit.epochs[fit.best_epoch - 1].val_accuracy
    story.say(f"Best recovery epoch {fit.best_epoch}: val acc {best:.4f} | final eval {record.val.accuracy.value:.4f}")
    story.record(
        level=record.level,
        target=record.plan.target,
        achieved=record.plan.achieved,
        val=record.val.accuracy.value,
        test=record.test.accuracy.value,
    )
