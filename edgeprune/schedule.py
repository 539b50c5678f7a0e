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


def plan_steps(kind: str, targets: tuple[float, ...], steps: int) -> tuple[float, ...]:
    """The targets of a schedule, cumulative and rising; the last one is the recipe's last.

    Args:
        kind: ``explicit`` takes the recipe's targets; ``linear`` removes the same number of channels at each step;
            ``geometric`` the same share of those that are left, so that steps get smaller as the network does;
            ``one_shot`` all at once.
        targets: the recipe's.
        steps: how many, for ``linear`` and ``geometric``.

    >>> plan_steps("linear", (0.6,), 3), plan_steps("geometric", (0.75,), 2), plan_steps("one_shot", (0.1, 0.6), 8)
    ((0.2, 0.4, 0.6), (0.5, 0.75), (0.6,))
    """
    last = targets[-1]
    if kind == "explicit":
        return targets
    if kind == "one_shot":
        return (last,)
    shares = [step / steps for step in range(1, steps)]
    # Four decimals name a level and still tell two of 10,000 channels apart.
    rising = [round(last * share if kind == "linear" else 1 - (1 - last) ** share, 4) for share in shares]
    return (*(step for step in dict.fromkeys(rising) if 0 < step < last), last)


def halve_step(before: float, target: float) -> float | None:
    """A target between two others, or None when they are closer than two percent.

    >>> halve_step(0.1, 0.2), halve_step(0.19, 0.2)
    (0.15, None)
    """
    return round((before + target) / 2, 4) if target - before >= 0.02 - 1e-9 else None
