"""Inputs of every run: the data set and the unpruned network; training the latter."""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from edgeprune import __version__
from edgeprune.audit import audit_cost
from edgeprune.batchnorm import restore_folded_batchnorm
from edgeprune.data import Dataset, HubOptions, load_dataset, sample_images
from edgeprune.errors import InputError
from edgeprune.evaluation import DIVERGED, evaluate_network
from edgeprune.files import digest_file, digest_json, staged_folder, write_atomic
from edgeprune.learning import EpochRecord, Unfinished
from edgeprune.pipeline.planning import count_groups
from edgeprune.pipeline.records import (
    RECORD,
    BaselineRecord,
    DenseRecord,
    Inputs,
    load_record,
    require_ours,
    save_record,
)
from edgeprune.pipeline.settings import data_digest, train, training_digest
from edgeprune.pipeline.story import epoch_line
from edgeprune.pipeline.teaching import open_file_teacher, teacher_file, weights_digest
from edgeprune.pipeline.telling import tell_training
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.publish.baseline_card import render_baseline_card
from edgeprune.recipe import Recipe, read_recipe
from edgeprune.results import as_json
from edgeprune.zoo import (
    Checkpoint,
    NetworkSpec,
    build_network,
    check_network,
    checkpoint_digest,
    is_checkpoint,
    load_checkpoint,
    load_initial_weights,
    save_checkpoint,
)

# Images that folded BatchNorm statistics are measured on; the estimate is far better than needed.
_FOLDED_STATISTICS_IMAGES = 512


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The unpruned network of a recipe, with its data set and what was measured of it.

    Attributes:
        workspace: where it lies, and who trains there.
        dataset: all three splits.
        folder: of the checkpoint.
        own_factory: ``package.module:function`` that the recipe trusts.
        weights: digest of its weights file.
        dense: evaluations and cost.
    """

    workspace: Workspace
    dataset: Dataset
    folder: Path
    own_factory: str
    weights: str
    dense: DenseRecord

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The unpruned network; rebuilt when somebody asks, since a run with nothing to do needs only its digest."""
        return load_checkpoint(self.folder, own_factory=self.own_factory)


def open_dataset(recipe: Recipe, workspace: Workspace, reporter: Reporter) -> Dataset:
    """The recipe's images, decoded at most once."""
    data = recipe.data
    with reporter.track("decoding images") as progress:
        return load_dataset(
            source=data.source,
            path=Path(data.path) if data.path is not None else None,
            image_size=data.image_size,
            val_fraction=data.val_fraction,
            test_fraction=data.test_fraction,
            split_seed=data.split_seed,
            skip_broken=data.skip_broken,
            cache_dir=workspace.cache,
            say=reporter.say,
            progress=progress,
            hub=HubOptions(
                revision=data.revision,
                config=data.config,
                image_column=data.image_column,
                label_column=data.label_column,
                classes=data.classes,
                train_split=data.train_split,
                limit=data.limit,
            ),
        )


def open_baseline(recipe: Recipe, workspace: Workspace, reporter: Reporter) -> Baseline:
    """Load the unpruned network and measure it, unless that was done for the same weights and images.

    Raises:
        InputError: there is no baseline, or it was trained for other classes, another size or normalisation.
    """
    folder = workspace.baseline_folder(recipe)
    if not folder.exists():
        raise InputError(
            f"The recipe {recipe.name!r} has no baseline: {folder} does not exist.",
            f"edgeprune train with the same recipe (make train RECIPE=recipes/{recipe.name}.yaml)",
        )
    weights = checkpoint_digest(folder)
    dataset = open_dataset(recipe, workspace, reporter)
    inputs = Inputs(edgeprune=__version__, recipe_part=data_digest(recipe), dataset=dataset.digest, parent=weights)
    path = workspace.level_folder(recipe, "dense") / RECORD
    dense = load_record(path, DenseRecord)
    if dense is None or dense.inputs != inputs:
        checkpoint = load_checkpoint(folder, own_factory=recipe.model.network)
        _check_fit(recipe, checkpoint, dataset, folder)
        network, mean, std = checkpoint.network, recipe.data.mean, recipe.data.std
        dense = DenseRecord(
            inputs=inputs,
            val=evaluate_network(network, dataset.val, mean=mean, std=std),
            test=evaluate_network(network, dataset.test, mean=mean, std=std),
            cost=audit_cost(network, image_size=checkpoint.spec.image_size, weights_file=folder / "model.safetensors"),
        )
        save_record(path, dense)
    return Baseline(
        workspace=workspace,
        dataset=dataset,
        folder=folder,
        own_factory=recipe.model.network,
        weights=weights,
        dense=dense,
    )


def make_baseline(recipe: Recipe, workspace: Workspace, reporter: Reporter) -> tuple[BaselineRecord, bool]:
    """Train the recipe's baseline and keep it with its card, unless it is up to date.

    Returns:
        The record, and whether anything was trained.

    Raises:
        InputError: the data, the network's name or the initial weights cannot be used, or the network cannot be pruned.
    """
    folder = workspace.baseline_folder(recipe)
    dataset = open_dataset(recipe, workspace, reporter)
    inputs = Inputs(
        edgeprune=__version__,
        recipe_part=training_digest(recipe),
        dataset=dataset.digest,
        parent=_initial_weights_digest(recipe.model.weights),
        teacher=weights_digest(teacher_file(recipe, workspace)) if recipe.train.alpha else "",
    )
    record = load_record(folder / RECORD, BaselineRecord)
    if record is not None and record.inputs == inputs and is_checkpoint(folder, record.weights):
        return record, False
    require_ours(folder)
    spec = NetworkSpec(
        network=recipe.model.network,
        num_classes=len(dataset.classes),
        image_size=recipe.data.image_size,
        pad=recipe.model.pad,
    )
    began = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        network = build_network(spec)
    check_network(network, spec)
    count_groups(recipe, network)  # what nobody can prune is refused now, not after hours of training
    initial = load_initial_weights(network, spec=spec, weights=recipe.model.weights)
    reporter.say(f"Initial weights: {initial.description}")
    mean, std = recipe.data.mean, recipe.data.std
    if initial.batchnorm_folded:
        images = sample_images(dataset.train, _FOLDED_STATISTICS_IMAGES, recipe.seed)
        network = restore_folded_batchnorm(network, images, mean=mean, std=std)
        reporter.say("BatchNorm statistics were folded into the weights: measured on train images and restored")

    def tell(epoch: EpochRecord) -> None:
        reporter.say(epoch_line("train", epoch, recipe.train.epochs))

    teacher, taught_by = None, ""
    if recipe.train.alpha:
        teacher, judged = open_file_teacher(recipe, teacher_file(recipe, workspace), dataset)
        taught_by = f"{teacher.path.name} (sha256 {inputs.teacher[:16]}), accuracy on validation {judged.accuracy}"
        reporter.say(f"Teacher: {taught_by}")
    unfinished = Unfinished(
        folder=workspace.unfinished / recipe.name, key=digest_json(as_json(inputs)), say=reporter.say
    )
    tell_training(recipe, workspace, dataset, spec=spec, unfinished=unfinished)
    with reporter.track(f"training {recipe.name}") as progress:
        fit = train(
            recipe,
            network,
            teacher=teacher,
            dataset=dataset,
            on_epoch=tell,
            progress=progress,
            unfinished=unfinished,
            team=workspace.team,
        )
    if fit.epochs[fit.best_epoch - 1].val_loss >= DIVERGED:
        raise InputError(
            f"Training diverged: no epoch of {len(fit.epochs)} gave finite logits (train.lr = {recipe.train.lr:g}).",
            "a lower train.lr",
        )
    checkpoint = Checkpoint(network=fit.network, spec=spec, classes=dataset.classes, mean=mean, std=std)
    with staged_folder(folder) as staging:
        save_checkpoint(staging, checkpoint)
        record = BaselineRecord(
            inputs=inputs,
            initial_weights=initial.description,
            weights=checkpoint_digest(staging),
            best_epoch=fit.best_epoch,
            epochs=fit.epochs,
            val=evaluate_network(fit.network, dataset.val, mean=mean, std=std),
            test=evaluate_network(fit.network, dataset.test, mean=mean, std=std),
            split_digest=dataset.split_digest,
            seconds=time.perf_counter() - began + fit.seconds_before,
        )
        save_record(staging / RECORD, record)
        write_atomic(staging / "recipe.yaml", recipe.without_local_paths().to_yaml())
        cost = audit_cost(fit.network, image_size=spec.image_size, weights_file=staging / "model.safetensors")
        card = render_baseline_card(
            name=recipe.name,
            network=spec.network,
            pad=spec.pad,
            image_size=spec.image_size,
            classes=dataset.classes,
            initial_weights=initial.description,
            best_epoch=fit.best_epoch,
            epochs=len(fit.epochs),
            val=record.val,
            test=record.test,
            cost=cost,
            credit=dataset.credit,
            data_digest=dataset.digest,
            split_digest=dataset.split_digest,
            split_sizes={split.name: len(split.labels) for split in (dataset.train, dataset.val, dataset.test)},
            recipe_digest=recipe.digest,
            unlabelled=int((dataset.train.labels < 0).sum()),
            teacher=taught_by,
        )
        write_atomic(staging / "README.md", card)
    unfinished.clear()
    return record, True


def _initial_weights_digest(weights: str) -> str:
    path = Path(weights)
    if path.is_dir():
        return checkpoint_digest(path)
    return digest_file(path) if path.is_file() else digest_json(weights)


def _other_split(recipe: Recipe, folder: Path) -> list[tuple[str, object, object]]:
    """How the split differs from the one that the baseline was trained on, where both are drawn from the same source.

    Images that it has learnt would be counted as test images. Of other sources, or of lists, that cannot be told.
    """
    beside = folder / "recipe.yaml"
    if not beside.is_file():
        return []
    now, before = recipe.data, read_recipe(beside).data
    if before.source != now.source or now.source == "csv":
        return []
    keys = ("split_seed", "val_fraction", "test_fraction")
    return [(f"data.{key}", getattr(before, key), getattr(now, key)) for key in keys]


def _check_fit(recipe: Recipe, checkpoint: Checkpoint, dataset: Dataset, folder: Path) -> None:
    spec, data = checkpoint.spec, recipe.data
    differences: list[tuple[str, object, object]] = [
        ("classes", list(checkpoint.classes), list(dataset.classes)),
        ("image size", spec.image_size, data.image_size),
        ("network", spec.network, recipe.model.network),
        ("padding", spec.pad, recipe.model.pad),
        ("mean", list(checkpoint.mean), list(data.mean)),
        ("std", list(checkpoint.std), list(data.std)),
    ]
    differences += _other_split(recipe, folder)
    for what, trained, wanted in differences:
        if trained != wanted:
            raise InputError(
                f"The baseline {folder} was trained with {what} {trained}, the recipe and its data have {wanted}.",
                "train a baseline for this recipe (edgeprune train), or change the recipe",
            )
