"""The recipe taken apart: what each step reads of it, as digests and as plain parameters."""

from collections.abc import Callable

import torch
from torch import nn

from edgeprune.batchnorm import recalibrate_batchnorm
from edgeprune.data import Dataset, augment_batch, sample_images
from edgeprune.distributed import ALONE, Team
from edgeprune.files import digest_json
from edgeprune.learning import Augment, EpochRecord, Fit, FitSettings, Unfinished, choose_rate
from edgeprune.pipeline.workspace import Progress
from edgeprune.recipe import Recipe
from edgeprune.recover import Distillation, recover_accuracy
from edgeprune.train import train_baseline

# Levels from before the measured file counted are still what they were: these were the recipe's defaults.
_USUAL_FILE = ("keep", True, True)


def training_digest(recipe: Recipe) -> str:
    """Digest of what training reads from the recipe."""
    return data_digest(recipe, "augment", "train", *_teacher_section(asked=recipe.train.alpha > 0))


def for_budget(recipe: Recipe) -> Recipe:
    """The recipe as the level of a budget is made by it."""
    recover = recipe.recover
    return recipe.model_copy(
        update={"recover": recover.model_copy(update={"epochs": recover.budget_epochs or recover.epochs})}
    )


def budget_digest(recipe: Recipe) -> str:
    """Digest of what the level of a budget reads from the recipe: recovery, and what the measured file is made with."""
    recovered = recovery_digest(for_budget(recipe))
    file = (recipe.export.pad, recipe.quantise.split_peak, recipe.quantise.equalise)
    return recovered if file == _USUAL_FILE else digest_json([recovered, file])


def recovery_digest(recipe: Recipe) -> str:
    """Digest of what pruning one level reads from the recipe; the schedule and the limits only choose among levels."""
    schedule = {
        "targets": (),
        "schedule": "explicit",
        "steps": 1,
        "max_step_drop": None,
        "min_accuracy": None,
        "max_drop": None,
        "budget_steps": 1,
    }
    part = recipe.model_copy(
        update={
            "prune": recipe.prune.model_copy(update=schedule),
            # Where the teacher lies does not matter; who it is stands in the level's inputs.
            "recover": recipe.recover.model_copy(update={"teacher": "", "budget_epochs": None}),
        }
    )
    asked = _teacher_section(asked=recipe.recover.teacher == "file")
    return digest_json(
        [
            data_digest(part, "activations", "augment", "prune", "recalibrate", "recover", *asked),
            recipe.train.bn_momentum,
        ]
    )


def data_digest(recipe: Recipe, *sections: str) -> str:
    """Digest of the data and model sections and of others; where images, weights and teacher lie is left out."""
    # Where the images lie does not matter, what they are does; and that is the data set's own digest.
    data = recipe.data.model_copy(update={"path": None})
    teacher = recipe.teacher.model_copy(update={"path": None})
    model = recipe.model.model_copy(update={"baseline": None, "weights": ""})
    values = recipe.model_copy(update={"data": data, "model": model, "teacher": teacher})
    return values.part_digest("data", "model", *sections)


def _teacher_section(*, asked: bool) -> tuple[str, ...]:
    return ("teacher",) if asked else ()


def augmentation(recipe: Recipe) -> Augment | None:
    """The recipe's augmentation as a function of a batch, or None when it changes nothing."""
    settings = recipe.augment
    if settings == type(settings)():
        return None

    def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return augment_batch(
            images,
            generator,
            flip_horizontal=settings.flip_horizontal,
            flip_vertical=settings.flip_vertical,
            quarter_turns=settings.quarter_turns,
            shift_pixels=settings.shift_pixels,
            brightness=settings.brightness,
            contrast=settings.contrast,
            crop_area=settings.crop_area,
            rotate_degrees=settings.rotate_degrees,
            saturation=settings.saturation,
        )

    return augment


def recalibrate(recipe: Recipe, network: nn.Module, dataset: Dataset, team: Team = ALONE) -> nn.Module:
    """BatchNorm recalibration of a copy, on the images that the recipe chooses."""
    split = dataset.train if recipe.recalibrate.split == "train" else dataset.val
    images = sample_images(split, min(recipe.recalibrate.images, len(split.labels)), recipe.seed)
    return recalibrate_batchnorm(network, images, mean=recipe.data.mean, std=recipe.data.std, team=team)


def train(
    recipe: Recipe,
    network: nn.Module,
    *,
    teacher: nn.Module | None,
    dataset: Dataset,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    progress: Progress | None = None,
    unfinished: Unfinished | None = None,
    team: Team = ALONE,
) -> Fit:
    """Training of a copy with the recipe's values."""
    values = recipe.train
    return train_baseline(
        network,
        dataset=dataset,
        mean=recipe.data.mean,
        std=recipe.data.std,
        epochs=values.epochs,
        batch_size=values.batch_size,
        lr=values.lr,
        weight_decay=values.weight_decay,
        warmup_epochs=values.warmup_epochs,
        label_smoothing=values.label_smoothing,
        class_weights=values.class_weights,
        bn_momentum=values.bn_momentum,
        augment=augmentation(recipe),
        seed=recipe.seed,
        teacher=teacher,
        alpha=values.alpha,
        temperature=values.temperature,
        ema=values.ema,
        mixup=values.mixup,
        paste=values.paste,
        labelled_share=values.labelled_share,
        on_epoch=on_epoch,
        progress=progress,
        unfinished=unfinished,
        team=team,
    )


def recover(
    recipe: Recipe,
    network: nn.Module,
    *,
    teacher: nn.Module,
    dataset: Dataset,
    lr: float,
    seed: int,
    epochs: int | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    progress: Progress | None = None,
    unfinished: Unfinished | None = None,
    team: Team = ALONE,
) -> Fit:
    """Recovery of a copy with the recipe's values; ``epochs`` replaces the recipe's for a trial."""
    values = recipe.recover
    epochs = epochs if epochs is not None else values.epochs
    return recover_accuracy(
        network,
        teacher=teacher,
        dataset=dataset,
        distillation=Distillation(
            alpha=values.alpha,
            temperature=values.temperature,
            label_smoothing=values.label_smoothing,
            feature_weight=values.feature_weight,
            feature_blocks=values.feature_blocks,
            cache_teacher=values.cache_teacher,
        ),
        settings=FitSettings(
            mean=recipe.data.mean,
            std=recipe.data.std,
            lr=choose_rate(values.lr_schedule, lr=lr, warmup_epochs=values.warmup_epochs, epochs=epochs),
            epochs=epochs,
            patience=values.patience,
            batch_size=values.batch_size,
            weight_decay=values.weight_decay,
            bn_momentum=recipe.train.bn_momentum,
            augment=augmentation(recipe),
            seed=seed,
            ema=values.ema,
            mixup=values.mixup,
            paste=values.paste,
            labelled_share=values.labelled_share,
        ),
        on_epoch=on_epoch,
        progress=progress,
        unfinished=unfinished,
        team=team,
    )
