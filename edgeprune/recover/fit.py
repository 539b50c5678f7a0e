"""Recovery of a pruned network: its loss, put together and minimised."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edgeprune.data import Dataset
from edgeprune.distributed import ALONE, Team
from edgeprune.errors import InputError
from edgeprune.learning import (
    EpochRecord,
    Fit,
    FitSettings,
    Step,
    Unfinished,
    distillation_loss,
    fit_network,
    watch_outputs,
)
from edgeprune.recover.answers import RememberedAnswers
from edgeprune.recover.attention import attention_distance, attention_map, choose_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """What a student learns from its teacher, and how much.

    Attributes:
        alpha: weight of the teacher's softened logits in [0, 1]; the labels weigh ``1 - alpha``.
        temperature: softens both distributions, > 0.
        label_smoothing: share of the labels' term that is spread over all classes.
        feature_weight: weight, on top of these, of the distance between attention maps of blocks; 0 leaves it out.
            The distance is in [0, 2] and usually a few hundredths.
        feature_blocks: modules that give them; empty: see ``attention.choose_blocks``.
        cache_teacher: ask the teacher once for each image and orientation; for augmentations that only flip and turn.
    """

    alpha: float
    temperature: float
    label_smoothing: float = 0.0
    feature_weight: float = 0.0
    feature_blocks: tuple[str, ...] = ()
    cache_teacher: bool = False


def recover_accuracy(
    network: nn.Module,
    *,
    teacher: nn.Module,
    dataset: Dataset,
    distillation: Distillation,
    settings: FitSettings,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    unfinished: Unfinished | None = None,
    team: Team = ALONE,
) -> Fit:
    """Fine-tune a pruned network and keep its best epoch by validation accuracy.

    Args:
        network: not changed.
        teacher: sees the same images, augmented and mixed; not changed, receives no gradient.
        dataset: learns from ``train``, selects on ``val``; ``test`` is not touched.
        distillation, settings: everything else that decides the result.
        on_epoch, progress, unfinished, team: as in ``fit_network``.

    Raises:
        InputError: features cannot be compared with the teacher's, or its answers not be remembered.
    """
    blocks: tuple[str, ...] = ()
    if distillation.feature_weight:
        blocks = choose_blocks(network, teacher, image_size=dataset.image_size, names=distillation.feature_blocks)
    teacher = copy.deepcopy(teacher).eval().to(team.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    answers = _remember(teacher, dataset, distillation, settings) if distillation.cache_teacher else None
    if answers is not None:
        settings = replace(settings, augment=answers.augment)
    with watch_outputs(teacher, blocks) as wanted:

        def loss(step: Step) -> Tensor:
            if answers is not None:
                soft = answers.answer(step.images, step.rows)
            else:
                with torch.inference_mode():
                    soft = teacher(step.images)
                soft = soft.clone()
            value = distillation_loss(
                step.logits,
                soft,
                step.labels,
                alpha=distillation.alpha,
                temperature=distillation.temperature,
                label_smoothing=distillation.label_smoothing,
            )
            if blocks:
                maps = {name: attention_map(wanted[name].clone()) for name in blocks}
                value = value + distillation.feature_weight * attention_distance(step.outputs, maps)
            return value

        return fit_network(
            network,
            train=dataset.train,
            val=dataset.val,
            loss=loss,
            settings=settings,
            watch=blocks,
            on_epoch=on_epoch,
            progress=progress,
            memory=answers,
            unfinished=unfinished,
            team=team,
        )


def learning_rate_for(target: float, *, lr: float, lr_high: float, lr_high_threshold: float) -> float:
    """The learning rate of a level: ``lr_high`` from the threshold upwards, ``lr`` below it.

    >>> [learning_rate_for(t, lr=1e-4, lr_high=5e-5, lr_high_threshold=0.25) for t in (0.2, 0.25)]
    [0.0001, 5e-05]
    """
    return lr_high if target >= lr_high_threshold else lr


def _remember(
    teacher: nn.Module, dataset: Dataset, distillation: Distillation, settings: FitSettings
) -> RememberedAnswers:
    if settings.mixup or settings.paste or distillation.feature_weight:
        raise InputError(
            "cache_teacher keeps logits of images that come again: no mixed ones, and no outputs of blocks.",
            "cache_teacher: false, or mixup: 0, paste: 0 and feature_weight: 0",
        )
    return RememberedAnswers(teacher, images=len(dataset.train.labels), augment=settings.augment)
