"""What a network answers, and how much of it is right."""

import math
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgeprune.data import PackedSplit, iterate_batches, run_ahead
from edgeprune.distributed import ALONE, Team
from edgeprune.preprocess import Triple
from edgeprune.results import Accuracy, Evaluation

# Stands for a loss that is no number, which JSON has no word for: bad, and comparable.
DIVERGED = 1e9
_BATCH = 128


def predict_logits(
    network: nn.Module, split: PackedSplit, *, mean: Triple, std: Triple, team: Team = ALONE
) -> np.ndarray:
    """Logits of a whole split, float32, shape (n, classes); it leaves the network in evaluation mode.

    Args:
        network: on the team's device.
        split: n images.
        mean, std: normalisation.
        team: shares the images; every process gets the logits of all.
    """
    network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    part = (team.rank, team.size)
    with torch.inference_mode():
        batches = iterate_batches(split, batch_size=_BATCH, mean=mean, std=std, part=part, device=team.device)
        own = torch.cat([network(images).float() for images, _ in run_ahead(batches) if len(images)])
    n = len(split.labels)
    positions = [
        row for start in range(0, n, _BATCH) for row in range(start, min(start + _BATCH, n))[part[0] :: part[1]]
    ]
    logits = own.new_zeros(n, own.shape[1])
    logits[positions] = own
    team.add(logits)
    return logits.cpu().numpy()


def evaluate_network(
    network: nn.Module, split: PackedSplit, *, mean: Triple, std: Triple, team: Team = ALONE
) -> Evaluation:
    """Run a network over a split and measure what it got right; arguments as in ``predict_logits``."""
    began = time.perf_counter()
    logits = predict_logits(network, split, mean=mean, std=std, team=team)
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
    # A row with NaN or infinity decides nothing, but argmax would name a class, often the right one. It counts as
    # wrong here as it does for the exported file.
    decided = np.isfinite(logits).all(axis=1)
    predicted = np.where(decided, logits.argmax(axis=1), (labels + 1) % classes)
    matrix = confusion_matrix(labels, predicted, labels=range(classes))
    loss = float(functional.cross_entropy(tensor, torch.from_numpy(labels)))
    return Evaluation(
        split=split.name,
        accuracy=Accuracy(correct=int(np.trace(matrix)), n=len(labels)),
        loss=loss if math.isfinite(loss) else DIVERGED,
        confusion=tuple(tuple(int(count) for count in row) for row in matrix),
        roc_auc=roc_auc,
        seconds=seconds,
    )
