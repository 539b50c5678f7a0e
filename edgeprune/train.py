"""Training of the unpruned baseline, from labels and, where there is one, from a teacher."""

import copy
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.data import Dataset, PackedSplit
from edgeprune.distributed import ALONE, Team
from edgeprune.errors import InputError
from edgeprune.learning import (
    Augment,
    EpochRecord,
    Fit,
    FitSettings,
    Step,
    Unfinished,
    distillation_loss,
    fit_network,
    labels_loss,
    warm_up_then_cosine,
)
from edgeprune.preprocess import Triple


def train_baseline(
    network: nn.Module,
    *,
    dataset: Dataset,
    mean: Triple,
    std: Triple,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    warmup_epochs: float,
    label_smoothing: float,
    class_weights: bool,
    bn_momentum: float,
    augment: Augment | None,
    seed: int,
    teacher: nn.Module | None = None,
    alpha: float = 0.0,
    temperature: float = 1.0,
    ema: float = 0.0,
    mixup: float = 0.0,
    paste: float = 0.0,
    labelled_share: float = 0.0,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    unfinished: Unfinished | None = None,
    team: Team = ALONE,
) -> Fit:
    """Train a network: AdamW, linear warm-up, cosine decay, best epoch by validation accuracy.

    Args:
        network: with its initial weights; not changed.
        dataset: learns from ``train``, selects on ``val``; ``test`` is not touched.
        label_smoothing: share of the target that is spread over all classes.
        class_weights: weigh each class by the inverse of its frequency, mean weight 1; without a teacher only.
        teacher: sees the same images, augmented and mixed, and gives logits; None learns from labels alone.
        alpha, temperature: as in ``distillation_loss``.
        mean, std, epochs, batch_size, lr, weight_decay, bn_momentum, augment, seed, ema, mixup, paste, labelled_share,
            on_epoch, progress, unfinished, team: as in ``FitSettings`` and ``fit_network``.
        warmup_epochs: epochs of linear rise to ``lr``.

    Raises:
        InputError: images have no label, and there is no teacher.
    """
    if teacher is None:
        _require_labels(dataset.train)
    else:
        teacher = copy.deepcopy(teacher).eval().to(team.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = None
    if class_weights:
        weights = inverse_frequencies(dataset.train.labels.tolist(), len(dataset.classes)).to(team.device)

    def loss(step: Step) -> Tensor:
        if teacher is None:
            return labels_loss(step.logits, step.labels, class_weights=weights, label_smoothing=label_smoothing)
        with torch.no_grad():
            soft = teacher(step.images)
        return distillation_loss(
            step.logits, soft, step.labels, alpha=alpha, temperature=temperature, label_smoothing=label_smoothing
        )

    return fit_network(
        network,
        train=dataset.train,
        val=dataset.val,
        loss=loss,
        settings=FitSettings(
            mean=mean,
            std=std,
            lr=warm_up_then_cosine(lr, min(warmup_epochs / epochs, 0.5)),
            epochs=epochs,
            patience=None,
            batch_size=batch_size,
            weight_decay=weight_decay,
            bn_momentum=bn_momentum,
            augment=augment,
            seed=seed,
            ema=ema,
            mixup=mixup,
            paste=paste,
            labelled_share=labelled_share,
        ),
        on_epoch=on_epoch,
        progress=progress,
        unfinished=unfinished,
        team=team,
    )


def _require_labels(train: PackedSplit) -> None:
    lacking = train.labels < 0
    if train.soft is not None:
        lacking = lacking & np.isnan(train.soft).any(axis=1)
    unlabelled = int(lacking.sum())
    if unlabelled:
        raise InputError(
            f"{unlabelled:,} of {len(train.labels):,} training images have no label, and there is no teacher.",
            "`teacher: path.tflite` and `train: {alpha: 0.7}` in the recipe, or leave these images out of the list",
        )


def inverse_frequencies(labels: list[int], classes: int) -> Tensor:
    """Weights n / (classes * count): a rare class counts as much as a frequent one.

    >>> inverse_frequencies([0, 0, 0, 1], 2)
    tensor([0.6667, 2.0000])
    """
    counts = Counter(label for label in labels if label >= 0)
    return torch.tensor([counts.total() / (classes * max(counts[index], 1)) for index in range(classes)])
