"""What training the baseline and recovering a pruned network have in common.

Evaluation, BatchNorm recalibration and a seeded loop that keeps the best epoch by validation accuracy. Everything that
draws random numbers takes a seed, so that a level made again is the same level.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.data import PackedSplit, iterate_batches
from edgeprune.results import Accuracy, Evaluation

Triple = tuple[float, float, float]
Augment = Callable[[Tensor, torch.Generator], Tensor]
# From a normalised batch (n, 3, height, width), the network's logits and the labels to a scalar.
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

_EVALUATION_BATCH = 128
# Stands for a loss that is no number, which JSON has no word for: bad, and comparable.
_DIVERGED = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One epoch: mean loss in nats and accuracy on the augmented training batches and on validation; wall seconds."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fitted network: the copy from the best epoch, in evaluation mode, and how every epoch went.

    Attributes:
        network: a new module.
        best_epoch: counted from 1; the first of equals.
        epochs: all that were run.
    """

    network: nn.Module
    best_epoch: int
    epochs: tuple[EpochRecord, ...]


def predict_logits(network: nn.Module, split: PackedSplit, *, mean: Triple, std: Triple) -> np.ndarray:
    """Logits of a whole split, float32, shape (n, classes); the network is in evaluation mode."""
    network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode():
        batches = iterate_batches(split, batch_size=_EVALUATION_BATCH, mean=mean, std=std)
        return torch.cat([network(images) for images, _ in batches]).numpy()


def evaluate_network(network: nn.Module, split: PackedSplit, *, mean: Triple, std: Triple) -> Evaluation:
    """Run a network over a split and measure what it got right."""
    began = time.perf_counter()
    logits = predict_logits(network, split, mean=mean, std=std)
    return evaluate_logits(logits, split, seconds=time.perf_counter() - began)


def evaluate_logits(logits: np.ndarray, split: PackedSplit, *, seconds: float) -> Evaluation:
    """Measure logits, shape (n, classes), against a split's labels."""
    from sklearn.metrics import confusion_matrix, roc_auc_score

    classes = logits.shape[1]
    tensor = torch.from_numpy(logits).double()
    labels = np.asarray(split.labels)
    probabilities = tensor.softmax(dim=1).numpy()
    if not np.isfinite(probabilities).all():
        # A diverged network ranks nothing; it must come out as bad, not as an exception in a metric.
        roc_auc = 0.5
    elif classes == 2:
        roc_auc = float(roc_auc_score(labels, probabilities[:, 1]))
    else:
        roc_auc = float(roc_auc_score(labels, probabilities, multi_class="ovr", labels=range(classes)))
    matrix = confusion_matrix(labels, logits.argmax(axis=1), labels=range(classes))
    loss = float(functional.cross_entropy(tensor, torch.from_numpy(labels)))
    return Evaluation(
        split=split.name,
        accuracy=Accuracy(correct=int(np.trace(matrix)), n=len(labels)),
        loss=loss if math.isfinite(loss) else _DIVERGED,
        confusion=tuple(tuple(int(count) for count in row) for row in matrix),
        roc_auc=roc_auc,
        seconds=seconds,
    )


def recalibrate_batchnorm(network: nn.Module, images: np.ndarray, *, mean: Triple, std: Triple) -> nn.Module:
    """Re-estimate BatchNorm statistics by forward passes without gradients.

    The statistics become the plain average over all batches (momentum ``None``), not torchvision's moving average,
    whose momentum of 0.01 would still carry the statistics of the channels that are gone.

    Args:
        network: not changed.
        images: uint8, shape (n, height, width, 3).
        mean, std: normalisation.

    Returns:
        A copy in evaluation mode.
    """
    network = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        # Only BatchNorm learns here: dropout and stochastic depth stay off.
        norm.train()
    split = PackedSplit(name="recalibration", images=images, labels=np.zeros(len(images), np.int64), names=())
    with torch.no_grad():
        for batch, _ in iterate_batches(split, batch_size=_even_batch_size(len(images)), mean=mean, std=std):
            # One image alone can have no variance (1x1 feature maps in the classifier).
            if len(batch) > 1:
                network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network.eval()


def restore_folded_batchnorm(network: nn.Module, images: np.ndarray, *, mean: Triple, std: Triple) -> nn.Module:
    """Give BatchNorms with folded statistics real ones, leaving the function as it is.

    Weights that come from a runtime's file have running mean 0 and variance 1, with the true statistics folded into
    scale and shift. In training mode such a layer would normalise by the batch's statistics all the same and change
    the function beyond repair. So each layer's input statistics m and v are measured with the network as it is, and
    ``scale * x + shift`` is written as ``gamma * (x - m) / sqrt(v + eps) + beta``.

    Args:
        network: not changed.
        images: uint8, shape (n, height, width, 3).
        mean, std: normalisation.

    Returns:
        A copy in evaluation mode that computes the same function in float64.
    """
    network = copy.deepcopy(network).eval()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    sums: dict[nn.BatchNorm2d, list[Tensor]] = {norm: [] for norm in norms}

    def measure(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        values = inputs[0].double()
        sums[module].append(torch.stack([values.mean(dim=(0, 2, 3)), values.square().mean(dim=(0, 2, 3))]))

    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    split = PackedSplit(name="recalibration", images=images, labels=np.zeros(len(images), np.int64), names=())
    with torch.no_grad():
        for batch, _ in iterate_batches(split, batch_size=_even_batch_size(len(images)), mean=mean, std=std):
            network(batch)
        for norm in norms:
            average, square = torch.stack(sums[norm]).mean(dim=0)
            variance = (square - average.square()).clamp(min=1e-10)
            _absorb_statistics(norm, average, variance)
    for hook in hooks:
        hook.remove()
    return network


def _even_batch_size(n: int) -> int:
    # Batches of (almost) equal size: averaged over batches, every image weighs alike, however few are left over.
    return math.ceil(n / math.ceil(n / _EVALUATION_BATCH))


def _absorb_statistics(norm: nn.BatchNorm2d, average: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - scale * norm.running_mean.double()
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    norm.bias.copy_(shift + scale * average)
    norm.running_mean.copy_(average)
    norm.running_var.copy_(variance)


def fit_network(
    network: nn.Module,
    *,
    train: PackedSplit,
    val: PackedSplit,
    mean: Triple,
    std: Triple,
    loss: Loss,
    lr: Callable[[float], float],
    epochs: int,
    patience: int | None,
    batch_size: int,
    weight_decay: float,
    bn_momentum: float,
    augment: Augment | None,
    seed: int,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Train a copy of a network with AdamW and keep its best epoch by validation accuracy.

    Args:
        network: not changed.
        train, val: splits to learn from and to select on.
        mean, std: normalisation.
        loss: what is minimised.
        lr: learning rate as a function of progress in [0, 1).
        epochs, batch_size: as they say; the last incomplete batch of an epoch is left out.
        patience: stop after this many epochs without a better validation accuracy; None runs them all.
        weight_decay: decoupled, on convolution and linear weights only.
        bn_momentum: of BatchNorm's running statistics while training.
        augment: changes a training batch of pixels in [0, 1], with the generator it is given.
        seed: draws order, augmentation and dropout.
        on_epoch: called after each epoch.
        progress: called with images done and images in all.

    Returns:
        The best epoch's network in evaluation mode, and all epochs.

    Source:
        Loshchilov, Hutter 2019, "Decoupled Weight Decay Regularization".
    """
    network = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = bn_momentum
    optimiser = torch.optim.AdamW(_parameter_groups(network, weight_decay), lr=lr(0.0))
    generator = torch.Generator().manual_seed(seed)
    batch_size = min(batch_size, len(train.labels))
    steps = len(train.labels) // batch_size
    records: list[EpochRecord] = []
    best: tuple[float, int, dict[str, Tensor]] = (-1.0, 0, {})
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # dropout draws from the global generator
        for epoch in range(1, epochs + 1):
            began = time.perf_counter()
            network.train()
            loss_sum, correct, seen = 0.0, 0, 0
            batches = iterate_batches(
                train, batch_size=batch_size, mean=mean, std=std, generator=generator, augment=augment, drop_last=True
            )
            for step, (images, labels) in enumerate(batches):
                for group in optimiser.param_groups:
                    group["lr"] = lr((epoch - 1 + step / steps) / epochs)
                logits = network(images)
                value = loss(images, logits, labels)
                optimiser.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                loss_sum += float(value.detach()) * len(labels)
                correct += int((logits.detach().argmax(dim=1) == labels).sum())
                seen += len(labels)
                if progress is not None:
                    progress(((epoch - 1) * steps + step + 1) * batch_size, epochs * steps * batch_size)
            evaluation = evaluate_network(network, val, mean=mean, std=std)
            record = EpochRecord(
                epoch=epoch,
                lr=lr((epoch - 1) / epochs),
                train_loss=loss_sum / seen if math.isfinite(loss_sum) else _DIVERGED,
                train_accuracy=correct / seen,
                val_loss=evaluation.loss,
                val_accuracy=evaluation.accuracy.value,
                seconds=time.perf_counter() - began,
            )
            records.append(record)
            if on_epoch is not None:
                on_epoch(record)
            if record.val_accuracy > best[0]:
                best = (record.val_accuracy, epoch, copy.deepcopy(network.state_dict()))
            if patience is not None and epoch - best[1] >= patience:
                break
    network.load_state_dict(best[2])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return Fit(network=network.eval(), best_epoch=best[1], epochs=tuple(records))


def warm_up_then_cosine(peak: float, warmup: float) -> Callable[[float], float]:
    """Learning rate over progress in [0, 1): a linear rise over the share ``warmup``, then half a cosine to zero.

    >>> rate = warm_up_then_cosine(1.0, 0.1)
    >>> [round(rate(p), 3) for p in (0.0, 0.1, 0.55)]
    [0.01, 1.0, 0.5]
    """

    def rate(progress: float) -> float:
        if progress < warmup:
            return peak * max(progress / warmup, 0.01)
        return peak * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))

    return rate


def _parameter_groups(network: nn.Module, weight_decay: float) -> Iterator[dict[str, object]]:
    # Decay pulls BatchNorm scales and biases to zero, which regularises nothing and kills channels.
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    yield {"params": decayed, "weight_decay": weight_decay}
    yield {"params": others, "weight_decay": 0.0}
