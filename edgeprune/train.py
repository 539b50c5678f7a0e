"""Training of the unpruned baseline."""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.data import Dataset
from edgeprune.learning import Augment, EpochRecord, Fit, FitSettings, Step, fit_network, warm_up_then_cosine
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
    on_epoch: Callable[[EpochRecord], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Train a network on hard labels: AdamW, linear warm-up, cosine decay, best epoch by validation accuracy.

    Args:
        network: with its initial weights; not changed.
        dataset: learns from ``train``, selects on ``val``; ``test`` is not touched.
        label_smoothing: share of the target that is spread over all classes.
        class_weights: weigh each class by the inverse of its frequency, mean weight 1.
        mean, std, epochs, batch_size, lr, weight_decay, bn_momentum, augment, seed, on_epoch, progress:
            as in ``FitSettings`` and ``fit_network``.
        warmup_epochs: epochs of linear rise to ``lr``.
    """
    weights = inverse_frequencies(dataset.train.labels.tolist(), len(dataset.classes)) if class_weights else None

    def loss(step: Step) -> Tensor:
        return functional.cross_entropy(step.logits, step.labels, weight=weights, label_smoothing=label_smoothing)

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
        ),
        on_epoch=on_epoch,
        progress=progress,
    )


def inverse_frequencies(labels: list[int], classes: int) -> Tensor:
    """Weights n / (classes * count): a rare class counts as much as a frequent one.

    >>> inverse_frequencies([0, 0, 0, 1], 2)
    tensor([0.6667, 2.0000])
    """
    counts = Counter(labels)
    return torch.tensor([len(labels) / (classes * max(counts[index], 1)) for index in range(classes)])
