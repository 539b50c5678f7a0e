"""Learning rates as functions of progress, which runs from 0 at the first step to just below 1 at the last one."""

import math
from collections.abc import Callable
from typing import Literal, assert_never

# Of a warm-up's first step, which would learn nothing at zero.
_LOWEST_WARM_UP = 0.01
# As in torch.optim.lr_scheduler.OneCycleLR: shares of the peak that it starts and ends at, and of steps that it rises.
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = 1e-4 / 25
_ONE_CYCLE_RISE = 0.3


def choose_rate(
    lr_schedule: Literal["constant", "cosine", "one_cycle"], *, lr: float, warmup_epochs: float, epochs: int
) -> Callable[[float], float]:
    """The learning rate over progress of one fit.

    Args:
        lr_schedule: ``constant`` and ``cosine`` (half a wave, down to zero) rise linearly during the warm-up;
            ``one_cycle`` rises along half a cosine from 1/25 of ``lr`` and falls along another to 1/250,000 of it.
            Momentum is constant in all of them.
        lr: the highest rate.
        warmup_epochs: length of the rise, at most half of the fit. 0 is no warm-up; for ``one_cycle``, which is
            nothing without one, 30 % of the fit.
        epochs: length of the fit.

    Source:
        Loshchilov, Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", section 3, without restarts;
        Smith, Topin 2018, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates".

    >>> rate = choose_rate("one_cycle", lr=1.0, warmup_epochs=0, epochs=10)
    >>> [round(rate(p), 3) for p in (0.0, 0.15, 0.3, 0.65)]
    [0.04, 0.52, 1.0, 0.5]
    """
    rise = min(warmup_epochs / epochs, 0.5)
    match lr_schedule:
        case "constant":
            return lambda progress: lr * max(progress / rise, _LOWEST_WARM_UP) if progress < rise else lr
        case "cosine":
            return warm_up_then_cosine(lr, rise)
        case "one_cycle":
            return _one_cycle(lr, rise or _ONE_CYCLE_RISE)
        case _:
            assert_never(lr_schedule)


def warm_up_then_cosine(peak: float, warmup: float) -> Callable[[float], float]:
    """Learning rate over progress in [0, 1): a linear rise over the share ``warmup``, then half a cosine to zero.

    >>> rate = warm_up_then_cosine(1.0, 0.1)
    >>> [round(rate(p), 3) for p in (0.0, 0.1, 0.55)]
    [0.01, 1.0, 0.5]
    """

    def rate(progress: float) -> float:
        if progress < warmup:
            return peak * max(progress / warmup, _LOWEST_WARM_UP)
        return peak * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))

    return rate


def _one_cycle(peak: float, rise: float) -> Callable[[float], float]:
    def between(low: float, share: float) -> float:
        """Half a cosine from ``low`` at 0 to ``peak`` at 1."""
        return low + (peak - low) * 0.5 * (1 - math.cos(math.pi * share))

    def rate(progress: float) -> float:
        if progress < rise:
            return between(peak * _ONE_CYCLE_START, progress / rise)
        return between(peak * _ONE_CYCLE_END, (1 - progress) / (1 - rise))

    return rate
