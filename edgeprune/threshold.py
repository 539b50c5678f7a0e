"""Where a two-class network's answers are cut: one definition for choosing, firmware, bundles and the demo.

The positive class is the second one. It is decided where its output is more than ``difference`` above the other's: of
logits, or of stored values where a file's output is int8. Both outputs of a file share scale and zero point, so that
firmware subtracts two bytes and compares with a whole number. A difference of 0 decides as argmax does.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeprune.results import Accuracy

if TYPE_CHECKING:
    import numpy as np

Criterion = Literal["balanced_accuracy", "accuracy"]
# Images by true class (rows) and decided class (columns), the negative class first.
Confusion = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """The threshold of one file, from that file's own outputs, and what it gives.

    Attributes:
        criterion: what was made as large as possible on ``val``, images that were held out of training.
        difference: see the module; a whole number where the file's output is int8.
        probability: the same as a softmax probability of the positive class.
        val_argmax, val, test: images by true and decided class: on val at a difference of 0 and at this one, on test.
        roc_auc: of the file on test.
    """

    criterion: Criterion
    difference: int | float
    probability: float
    val_argmax: Confusion
    val: Confusion
    test: Confusion
    roc_auc: float

    @property
    def accuracy(self) -> Accuracy:
        """On test, at the threshold."""
        return Accuracy(correct=self.test[0][0] + self.test[1][1], n=sum(map(sum, self.test)))


def choose_difference(outputs: "np.ndarray", labels: "np.ndarray", criterion: Criterion) -> int | float:
    """The difference that makes a criterion as large as possible; of several, the one nearest to argmax.

    Candidates lie in the middle between neighbouring images, and 0 stands for its own gap, so that a threshold is as
    far as it can be from every image it was chosen on. None but 0 itself puts all images into one class.

    Args:
        outputs: of a file, as it stores them, shape (n, 2). Rows with NaN or infinity are left out.
        labels: true classes, 0 and 1, shape (n,).
        criterion: ``accuracy``, or ``balanced_accuracy``, the mean of both classes' recalls.

    Returns:
        A whole number where outputs are whole numbers.

    >>> import numpy as np
    >>> choose_difference(np.asarray([[0, 1], [0, 4], [0, 9], [0, 20]], np.int8), np.asarray([0, 0, 1, 1]), "accuracy")
    6
    """
    import numpy as np

    finite = np.isfinite(outputs).all(axis=1)
    margins, truth = _margins(outputs)[finite], np.asarray(labels)[finite] == 1
    values, places = np.unique(margins, return_inverse=True)
    positive = np.bincount(places, weights=truth, minlength=len(values)).cumsum()
    negative = np.bincount(places, weights=~truth, minlength=len(values)).cumsum()
    if len(values) < 2 or not positive[-1] or not negative[-1]:
        return 0 if margins.dtype.kind == "i" else 0.0
    # Cut behind each value but the last: up to it is negative.
    hits, rejections = positive[-1] - positive[:-1], negative[:-1]
    low, high = values[:-1], values[1:]
    middle = (low + high - 1) // 2 if margins.dtype.kind == "i" else (low + high) / 2
    cuts = np.where((low <= 0) & (high > 0), 0, middle)
    if not (cuts == 0).any():  # all images are on one side of it
        cuts = np.append(cuts, np.zeros(1, cuts.dtype))
        hits = np.append(hits, (truth & (margins > 0)).sum())
        rejections = np.append(rejections, (~truth & (margins <= 0)).sum())
    # Counts, so that equal criteria are equal: recalls would differ in their last digit.
    score = hits + rejections if criterion == "accuracy" else hits * negative[-1] + rejections * positive[-1]
    best = np.flatnonzero(score == score.max())
    chosen = cuts[best[np.abs(cuts[best]).argmin()]]
    return int(chosen) if margins.dtype.kind == "i" else float(chosen)


def decide_positive(outputs: "np.ndarray", difference: float) -> "np.ndarray":
    """True where the positive class is decided; outputs as the file stores them, shape (n, 2).

    >>> import numpy as np
    >>> decide_positive(np.asarray([[-128, 127], [5, 5]], np.int8), 254)
    array([ True, False])
    """
    decided: np.ndarray = _margins(outputs) > difference
    return decided


def count_decisions(outputs: "np.ndarray", labels: "np.ndarray", difference: float) -> Confusion:
    """Images by true and decided class; one with NaN or infinity among its outputs counts as wrong."""
    import numpy as np

    truth = np.asarray(labels) == 1
    decided = np.where(np.isfinite(outputs).all(axis=1), decide_positive(outputs, difference), ~truth)
    (tn, fp), (fn, tp) = (
        [int(np.count_nonzero((truth == row) & (decided == column))) for column in (False, True)]
        for row in (False, True)
    )
    return (tn, fp), (fn, tp)


def criterion_value(confusion: Confusion, criterion: Criterion) -> float:
    """The criterion in [0, 1].

    >>> criterion_value(((8, 2), (1, 1)), "balanced_accuracy")
    0.65
    """
    (tn, fp), (fn, tp) = confusion
    if criterion == "accuracy":
        return (tn + tp) / (tn + fp + fn + tp)
    return (tn / max(1, tn + fp) + tp / max(1, fn + tp)) / 2


def area_under_roc(outputs: "np.ndarray", labels: "np.ndarray") -> float:
    """Probability that a positive image ranks above a negative one, ties counting half; 0.5 with NaN among outputs.

    Source:
        Mann and Whitney 1947; equal to the area under the ROC curve (Hanley and McNeil 1982).

    >>> import numpy as np
    >>> area_under_roc(np.asarray([[0, 1], [0, 3], [0, 3], [0, 5]]), np.asarray([0, 0, 1, 1]))
    0.875
    """
    import numpy as np

    truth = np.asarray(labels) == 1
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not np.isfinite(outputs).all() or not positives or not negatives:
        return 0.5
    _, places, counts = np.unique(_margins(outputs), return_inverse=True, return_counts=True)
    ranks = counts.cumsum() - (counts - 1) / 2
    return float((ranks[places][truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def probability_at(difference: float, scale: float = 1.0) -> float:
    """Softmax probability of the positive class at a difference of logits, or of stored values times their scale."""
    return 1 / (1 + math.exp(-max(-700.0, difference * scale)))


def difference_at(probability: float, scale: float = 1.0) -> float:
    """The difference at which the positive class has a probability, in (0, 1).

    >>> difference_at(0.5), round(probability_at(difference_at(0.8, 0.25), 0.25), 6)
    (0.0, 0.8)
    """
    return math.log(probability / (1 - probability)) / scale


def _margins(outputs: "np.ndarray") -> "np.ndarray":
    """How far the positive class is above the other: whole numbers of whole numbers, else float64."""
    import numpy as np

    wide = outputs.astype(np.int64 if outputs.dtype.kind in "iu" else np.float64)
    with np.errstate(invalid="ignore"):
        margins: np.ndarray = wide[:, 1] - wide[:, 0]
    return margins
