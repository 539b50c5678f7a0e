"""One level: plan, surgery, recalibration, recovery, and the folder that keeps it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgeprune.audit import audit_cost
from edgeprune.data import Dataset
from edgeprune.evaluation import evaluate_network
from edgeprune.files import digest_json, staged_folder
from edgeprune.learning import EpochRecord, Fit, Unfinished
from edgeprune.pipeline.baseline import Baseline
from edgeprune.pipeline.planning import count_groups, plan_target, score_groups
from edgeprune.pipeline.records import RECORD, Inputs, LevelRecord, require_ours, save_record
from edgeprune.pipeline.settings import recalibrate, recover
from edgeprune.pipeline.story import RunStory, epoch_line
from edgeprune.pipeline.teaching import open_teacher, weights_digest
from edgeprune.pipeline.telling import forget_student, tell_recalibration, tell_recovery
from edgeprune.pipeline.workspace import Reporter
from edgeprune.plan.dead import rank_first
from edgeprune.prune import remove_channels
from edgeprune.recipe import Recipe
from edgeprune.recover import learning_rate_for
from edgeprune.results import ChannelPlan, as_json
from edgeprune.schedule import level_id
from edgeprune.zoo import Checkpoint, checkpoint_digest, load_checkpoint, save_checkpoint, with_early_relu


@dataclass(frozen=True, slots=True)
class Source:
    """What a level is cut from or learns from, a checkpoint or a file; rebuilt only when there is work to do."""

    level: str
    folder: Path

    @property
    def weights(self) -> str:
        """Digest of its weights file."""
        return weights_digest(self.folder)

    def open(self, recipe: Recipe) -> Checkpoint:
        """The checkpoint itself."""
        return load_checkpoint(self.folder, own_factory=recipe.model.network)

    def open_for_cutting(self, recipe: Recipe) -> Checkpoint:
        """The checkpoint with the activations that the recipe wants its levels to have."""
        checkpoint, wanted = self.open(recipe), recipe.activations
        return with_early_relu(checkpoint, blocks=wanted.blocks) if wanted.early == "relu" else checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How a level is cut.

    Attributes:
        level: its id.
        title: what it is made for, for the log: ``target 60.0%``.
        sparsity: decides the learning rate: the target, or what a budget came to.
        plan: channels that stay.
        network: the smaller network.
        checkpoint: what it was cut from.
    """

    level: str
    title: str
    sparsity: float
    plan: ChannelPlan
    network: nn.Module
    checkpoint: Checkpoint


def make_level(
    recipe: Recipe,
    baseline: Baseline,
    *,
    parent: Source,
    teacher: Source,
    inputs: Inputs,
    cut: Callable[[], Cut],
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
        inputs: everything that decides the result.
        cut: makes the smaller network; called once the teacher is known to fit.
        folder: where the level appears.
        story: is told the log's lines.
        reporter: is told progress.

    Raises:
        InputError: the teacher answers other classes or another size.
        EdgepruneError: whatever ``cut`` raises.
    """
    began = time.perf_counter()
    require_ours(folder)
    data, dataset = recipe.data, baseline.dataset
    teaching = open_teacher(recipe, teacher.folder, dataset)
    made = cut()
    level, plan = made.level, made.plan
    story.say(f"Recalibrating BatchNorm statistics using the {recipe.recalibrate.split} loader...")
    workspace = baseline.workspace
    unfinished = Unfinished(
        folder=workspace.unfinished / folder.name,
        # The plan too: how a budget is met depends on what was measured.
        key=digest_json([as_json(inputs), as_json(plan)]),
        say=story.say,
    )
    tell_recalibration(recipe, workspace, dataset, network=made.network, origin=made.checkpoint, level=folder.name)
    pruned = recalibrate(recipe, made.network, dataset, workspace.team)
    before = evaluate_network(pruned, dataset.val, mean=data.mean, std=data.std)
    story.say(f"Post-surgery pre-recovery accuracy: {before.accuracy.value:.4f}")
    lr = learning_rate_for(
        made.sparsity,
        lr=recipe.recover.lr,
        lr_high=recipe.recover.lr_high,
        lr_high_threshold=recipe.recover.lr_high_threshold,
    )

    def tell(epoch: EpochRecord) -> None:
        story.say(epoch_line(made.title, epoch, recipe.recover.epochs))
        story.record(level=level, target=plan.target, **as_json(epoch))

    seed = level_seed(recipe, made.sparsity)
    tell_recovery(
        recipe,
        workspace,
        dataset,
        level=folder.name,
        teacher=teacher.folder,
        lr=lr,
        seed=seed,
        unfinished=unfinished,
    )
    with reporter.track(f"recovering {level}") as progress:
        fit = recover(
            recipe,
            pruned,
            teacher=teaching,
            dataset=dataset,
            lr=lr,
            seed=seed,
            on_epoch=tell,
            progress=progress,
            unfinished=unfinished,
            team=workspace.team,
        )
    checkpoint = Checkpoint(
        network=fit.network,
        spec=made.checkpoint.spec,
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
            seconds=time.perf_counter() - began + fit.seconds_before,
        )
        save_record(staging / RECORD, record)
    unfinished.clear()
    forget_student(workspace, folder.name)
    _tell_end(record, fit, story)
    return record


def cut_to_target(
    recipe: Recipe,
    parent: Source,
    dataset: Dataset,
    target: float,
    *,
    prunable: int,
    left: Mapping[str, Sequence[int]],
    story: RunStory,
) -> Cut:
    """Cut a level's channels from its parent.

    Args:
        recipe: scope, importance and alignment.
        parent: the level before, or the unpruned network.
        dataset: images for importances that look at any.
        target: the level's.
        prunable: channels of the unpruned network.
        left: group to dead channels, which go first.
        story: is told the log's lines.

    Raises:
        UnreachableTargetError: the target asks for more than can be removed.
    """
    checkpoint = parent.open_for_cutting(recipe)
    groups = count_groups(recipe, checkpoint.network)
    scores = score_groups(recipe, checkpoint.network, groups, dataset, seed=level_seed(recipe, target))
    plan = plan_target(recipe, groups, rank_first(scores, left), target, prunable=prunable)
    what = "expand convs only" if recipe.prune.scope == "expand" else "all shared channels"
    story.say("", "---", "")
    story.say(f"Pruning towards {target:.2%} global channel sparsity ({what})")
    story.say(f"Removing {plan.removed_now} channels (cumulative fraction {plan.removed_before / prunable:.1%})")
    network = remove_channels(checkpoint.network, groups, plan, image_size=recipe.data.image_size)
    story.say(f"Cumulative removed fraction: {plan.achieved:.1%}")
    return Cut(
        level=level_id(target),
        title=f"target {target:.1%}",
        sparsity=target,
        plan=plan,
        network=network,
        checkpoint=checkpoint,
    )


def level_seed(recipe: Recipe, target: float) -> int:
    """Every level draws its own numbers, whichever levels were made before it in this process."""
    return recipe.seed + round(target * 1_000_000)


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
