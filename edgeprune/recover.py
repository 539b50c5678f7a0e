"""Recovery of a pruned network: fine-tuning on the labels and on a teacher's soft outputs."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.data import Dataset
from edgeprune.learning import Augment, EpochRecord, Fit, fit_network
from edgeprune.preprocess import Triple


def recover_accuracy(
    network: nn.Module,
    *,
    teacher: nn.Module,
    dataset: Dataset,
    mean: Triple,
    std: Triple,
    alpha: float,
    temperature: float,
    epochs: int,
    patience: int,
    lr: float,
    batch_size: int,
    weight_decay: float,
    bn_momentum: float,
    augment: Augment | None,
    seed: int,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Fine-tune a pruned network at a constant learning rate and keep its best epoch by validation accuracy.

    Args:
        network: not changed.
        teacher: sees the same augmented images; not changed, receives no gradient.
        dataset: learns from ``train``, selects on ``val``; ``test`` is not touched.
        alpha: weight of the soft term in [0, 1]; the labels weigh ``1 - alpha``.
        temperature: softens both distributions, > 0.
        patience: epochs without a better validation accuracy before it stops.
        mean, std, epochs, lr, batch_size, weight_decay, bn_momentum, augment, seed, on_epoch, progress:
            as in ``fit_network``.
    """
    teacher = copy.deepcopy(teacher).eval()

    def loss(images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        with torch.inference_mode():
            soft = teacher(images)
        return distillation_loss(logits, soft.clone(), labels, alpha=alpha, temperature=temperature)

    return fit_network(
        network,
        train=dataset.train,
        val=dataset.val,
        mean=mean,
        std=std,
        loss=loss,
        lr=lambda _: lr,
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        weight_decay=weight_decay,
        bn_momentum=bn_momentum,
        augment=augment,
        seed=seed,
        on_epoch=on_epoch,
        progress=progress,
    )


def learning_rate_for(target: float, *, lr: float, lr_high: float, lr_high_threshold: float) -> float:
    """The learning rate of a level: ``lr_high`` from the threshold upwards, ``lr`` below it.

    >>> [learning_rate_for(t, lr=1e-4, lr_high=5e-5, lr_high_threshold=0.25) for t in (0.2, 0.25)]
    [0.0001, 5e-05]
    """
    return lr_high if target >= lr_high_threshold else lr


def distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float, temperature: float) -> Tensor:
    """Weighted sum of the soft-target loss and the cross entropy with the labels.

    Args:
        student, teacher: logits, shape (batch, classes).
        labels: class indices, shape (batch,).
        alpha: weight of the soft term in [0, 1].
        temperature: > 0.

    Returns:
        Scalar, in nats.
    """
    hard = functional.cross_entropy(student, labels)
    # Soft gradients shrink as 1 / temperature**2; scale back so that changing the temperature does not also change
    # the balance against the labels.
    soft = soft_target_loss(student, teacher, temperature) * temperature**2
    return alpha * soft + (1 - alpha) * hard


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened class distributions, averaged over the batch.

    Args:
        student, teacher: logits, shape (batch, classes). No gradient reaches the teacher.
        temperature: > 0; 1 leaves the distributions as they are.

    Returns:
        Scalar, in nats; 0 when both agree.

    Source:
        Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", section 2.
    """
    return functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        functional.log_softmax(teacher.detach() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
