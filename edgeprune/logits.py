"""How far two sets of logits are apart: one definition for exporting, gates and padding."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def scaled_difference(logits: "np.ndarray", reference: "np.ndarray") -> float:
    """Largest absolute difference over the largest absolute reference value.

    One scale for all images, because a logit near zero carries no decision and would blow up a relative difference.

    Args:
        logits, reference: shape (n, classes).

    Returns:
        0 when both are equal, NaN when either holds a NaN or two infinities meet.

    Raises:
        ValueError: the shapes differ, or there is nothing to compare.

    >>> import numpy as np
    >>> scaled_difference(np.array([[1.0, -4.0]]), np.array([[1.5, -5.0]]))
    0.2
    """
    import numpy as np

    if logits.shape != reference.shape or logits.size == 0:
        raise ValueError(f"logits of shape {logits.shape} cannot be compared with {reference.shape}")
    with np.errstate(invalid="ignore"):
        difference = float(np.max(np.abs(logits.astype(np.float64) - reference.astype(np.float64))))
    scale = float(np.max(np.abs(reference)))
    if difference == 0:
        return 0.0
    return difference / scale if scale > 0 else difference * float("inf")
