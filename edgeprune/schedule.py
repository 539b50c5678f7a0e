"""Targets as people type them, the schedule that they cut, and the names of the levels that come of it."""

import math

from edgeprune.errors import InputError


def level_id(target: float) -> str:
    """The short name of a level: its target in percent.

    >>> level_id(0.6), level_id(0.605), level_id(0.05)
    ('s60', 's60_5', 's05')
    """
    percent = f"{target * 100:.6f}".rstrip("0").rstrip(".")
    whole, _, rest = percent.partition(".")
    return f"s{whole.zfill(2)}" + (f"_{rest}" if rest else "")


def parse_target(text: str) -> float:
    """A channel sparsity in (0, 1) as people type it.

    Raises:
        InputError: not a number, or outside (0, 1).

    >>> parse_target("0.6")
    0.6
    """
    try:
        target = float(text)
    except ValueError:
        raise InputError(f"TARGET={text} is not a number.", "TARGET=0.6") from None
    if not (math.isfinite(target) and 0 < target < 1):
        hint = f"{target / 100:g}" if math.isfinite(target) and 1 < target < 100 else "0.6"
        raise InputError(
            f"TARGET={text} is outside (0, 1).",
            f"TARGET={hint} (a fraction of the prunable channels, not a percentage)",
        )
    return target


def schedule_up_to(targets: tuple[float, ...], target: float | None) -> tuple[float, ...]:
    """The schedule cut at a target, which is appended when it is not one of its steps.

    >>> schedule_up_to((0.1, 0.2, 0.3), 0.25)
    (0.1, 0.2, 0.25)
    >>> schedule_up_to((0.1, 0.2, 0.3), None)
    (0.1, 0.2, 0.3)
    """
    if target is None:
        return targets
    return (*(step for step in targets if level_id(step) != level_id(target) and step < target), target)
