"""Asynchronous successive halving (ASHA): of the trials that reach a rung, only the best go on.

Source:
    Li, Jamieson, Rostamizadeh, Gonina, Ben-Tzur, Hardt, Recht, Talwalkar 2020, "A System for Massively Parallel
    Hyperparameter Tuning". As there, nobody waits: a trial is held against those that came to the rung before it.
"""

from collections.abc import Sequence


def is_rung(levels: int, *, first_level: int, reduction: int) -> bool:
    """Whether a trial is judged after so many levels.

    >>> [levels for levels in range(1, 20) if is_rung(levels, first_level=2, reduction=3)]
    [2, 6, 18]
    """
    rung = first_level
    while rung < levels:
        rung *= reduction
    return rung == levels


def goes_on(accuracy: float, others: Sequence[float], *, reduction: int) -> bool:
    """Whether a trial is among the best ``1 / reduction`` of those at its rung so far, itself included.

    Args:
        accuracy: its own, on validation.
        others: of those that came to this rung before, with the same target.
        reduction: of so many, one goes on; as long as there are fewer, everyone equal to the best does.

    >>> goes_on(0.8, [0.7, 0.9, 0.6], reduction=2), goes_on(0.65, [0.7, 0.9, 0.6], reduction=2)
    (True, False)
    """
    ranked = sorted([accuracy, *others], reverse=True)
    return accuracy >= ranked[max(len(ranked) // reduction, 1) - 1]
