"""Gates on decisions: how often the shipped file is right on the test split, and what pruning cost."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.results import Accuracy, Gate

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedAccuracy:
    """Two files on the same images.

    Attributes:
        accuracy, reference: of the file and of the baseline's file. An image with NaN or infinity among its logits
            counts as wrong.
        lost, won: images that only the baseline's file, or only the file, gets right.
        p_value: exact McNemar test of the difference.
        bad, reference_bad: images with NaN or infinity among the logits.
    """

    accuracy: Accuracy
    reference: Accuracy
    lost: int
    won: int
    p_value: float
    bad: int
    reference_bad: int

    @property
    def drop(self) -> float:
        """Accuracy that was lost, as a fraction of the images; negative when some was won."""
        # From the counts: 0.87 - 0.84 is above 0.03 in floating point, three images in a hundred are not.
        return (self.reference.correct - self.accuracy.correct) / self.accuracy.n


def compare_accuracy(
    *, file_logits: "np.ndarray", reference_logits: "np.ndarray", labels: "np.ndarray"
) -> PairedAccuracy:
    """Compare the file's accuracy on the whole test split with that of the unpruned baseline's file.

    Args:
        file_logits, reference_logits: of the same images in the same order, shape (n, classes).
        labels: true classes, shape (n,).

    Raises:
        ValueError: the arrays are not of the same images.

    Source:
        McNemar 1947; the exact form is a binomial test on the images that only one of the two gets right.
    """
    import numpy as np
    from scipy.stats import binomtest

    n = len(labels)
    if n == 0 or file_logits.shape != reference_logits.shape or len(file_logits) != n:
        raise ValueError(
            f"{n} labels, logits of shape {file_logits.shape} and {reference_logits.shape} do not belong together"
        )
    finite, reference_finite = (np.isfinite(logits).all(axis=1) for logits in (file_logits, reference_logits))
    right = finite & (file_logits.argmax(axis=1) == labels)
    reference_right = reference_finite & (reference_logits.argmax(axis=1) == labels)
    lost, won = int((reference_right & ~right).sum()), int((right & ~reference_right).sum())
    return PairedAccuracy(
        accuracy=Accuracy(correct=int(right.sum()), n=n),
        reference=Accuracy(correct=int(reference_right.sum()), n=n),
        lost=lost,
        won=won,
        p_value=float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0,
        bad=int(np.count_nonzero(~finite)),
        reference_bad=int(np.count_nonzero(~reference_finite)),
    )


def check_accuracy(comparison: PairedAccuracy, *, max_drop: float) -> tuple[Gate, ...]:
    """Hold a comparison against the largest drop, a fraction of the images.

    Returns:
        Gates ``finite_logits``, ``test_accuracy`` and ``accuracy_drop``. The last two share one verdict; the details
        hold n, the 95 % interval and the exact McNemar p-value of the difference.
    """
    drop, n = comparison.drop, comparison.accuracy.n
    finite = comparison.bad == 0 and comparison.reference_bad == 0
    # A baseline that lost images to NaN would make any drop look small.
    passed = bool(drop <= max_drop) and finite
    return (
        Gate(
            name="finite_logits",
            figure=comparison.bad + comparison.reference_bad,
            limit="0 images with NaN or infinity",
            passed=finite,
            detail=f"{n} test images; the file {comparison.bad}, the baseline's file {comparison.reference_bad}",
        ),
        Gate(
            name="test_accuracy",
            figure=comparison.accuracy.value,
            limit=f">= {comparison.reference.value:.4f} - {max_drop:g}",
            passed=passed,
            detail=f"the file in onnxruntime: {comparison.accuracy}; the baseline's file: {comparison.reference}",
        ),
        Gate(
            name="accuracy_drop",
            figure=drop,
            limit=f"<= {max_drop:g}",
            passed=passed,
            detail=(
                f"exact McNemar p={comparison.p_value:.3g}, n={n}: {comparison.lost} images lost, {comparison.won} won "
                "against the baseline's file"
            ),
        ),
    )
