"""Budgets as people type them: at most so many bytes of flash and RAM, multiply-accumulates, parameters, milliseconds.

>>> budget = parse_budget("flash=300KB ram=64KB macs=4M")
>>> budget.flash_bytes, budget.ram_bytes, budget.macs, budget.params
(300000, 64000, 4000000, None)
>>> str(budget)
'flash=300KB ram=64KB macs=4M'
>>> parse_budget("ram=64KiB").ram_bytes
65536
"""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from edgeprune.errors import InputError
from edgeprune.files import digest_json

_BYTES = {"B": 1, "KB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2}
_COUNTS = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3}
_TIMES = {"us": Decimal("0.001"), "ms": Decimal(1), "s": Decimal(1000)}
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_DIGITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A bound: its field, its units, an example."""

    field: str
    units: Mapping[str, int | Decimal]
    example: str


_KINDS = {
    "flash": _Kind(field="flash_bytes", units=_BYTES, example="300KB"),
    "ram": _Kind(field="ram_bytes", units=_BYTES, example="64KB"),
    "arena": _Kind(field="arena_bytes", units=_BYTES, example="160KB"),
    "macs": _Kind(field="macs", units=_COUNTS, example="4M"),
    "params": _Kind(field="params", units=_COUNTS, example="400k"),
    "latency": _Kind(field="latency_ms", units=_TIMES, example="0.4ms"),
}
_EXAMPLE = "flash=300KB ram=64KB macs=4M params=400k latency=0.4ms"
# What is typed where a recipe has a budget and none is wanted.
_NOTHING = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Upper bounds, each met when the figure is at most the bound; None bounds nothing.

    Attributes:
        flash_bytes: of the int8 TFLite file.
        ram_bytes: head of TFLite Micro's arena for it: activations.
        arena_bytes: all of that arena: head, tail (a 64-bit host's) and the scratch that CMSIS-NN's kernels ask for.
        macs: multiply-accumulates of one image, counter fvcore.
        params: weights and biases.
        latency_ms: of one call of model.onnx in ONNX Runtime, one thread, on this machine.
        device: whose limits are among the bounds, or an empty string; only names the level.
    """

    flash_bytes: int | None = None
    ram_bytes: int | None = None
    arena_bytes: int | None = None
    macs: int | None = None
    params: int | None = None
    latency_ms: float | None = None
    device: str = ""

    @property
    def bounds(self) -> dict[str, float]:
        """Field name to bound, of those that are set."""
        found = {kind.field: getattr(self, kind.field) for kind in _KINDS.values()}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits; 64KB and 64000B are the same budget."""
        return digest_json({name: float(value) for name, value in self.bounds.items()})[:_DIGITS]

    @property
    def level(self) -> str:
        """The name of the level that is made by this budget, with the device's name where one was given.

        >>> Budget(ram_bytes=64000).level, Budget(ram_bytes=64000, device="stm32f746").level
        ('b-eb9317ae', 'b-eb9317ae-stm32f746')
        """
        return f"b-{self.digest}" + (f"-{self.device}" if self.device else "")

    def tightened(self, other: "Budget") -> "Budget":
        """The lower of each two bounds, so that what meets the result meets both; the other's device where it has one.

        >>> str(Budget(ram_bytes=64000, macs=4_000_000).tightened(Budget(ram_bytes=32000, device="rp2040")))
        'ram=32KB macs=4M'
        """
        lower = dict(other.bounds)
        for name, bound in self.bounds.items():
            lower[name] = min(bound, lower.get(name, bound))
        return Budget(**lower, device=other.device or self.device)  # type: ignore[arg-type]

    def approached(self, start: Mapping[str, float], *, steps: int) -> tuple["Budget", ...]:
        """Budgets from a network's own cost to this one, which is the last; each bound falls by the same factor a step.

        A network that meets it already is not approached from anywhere: there is but this one.

        Args:
            start: what the network costs, by bound.
            steps: how many, 1 or more.

        >>> [str(each) for each in Budget(macs=1_000_000, ram_bytes=9000).approached(
        ...     {"macs": 4_000_000, "ram_bytes": 8000}, steps=2)]
        ['ram=9KB macs=2M', 'ram=9KB macs=1M']
        """
        on_the_way = []
        for step in range(1, steps):
            bounds = {}
            for name, bound in self.bounds.items():
                least = max(start[name], bound) * (bound / max(start[name], bound)) ** (step / steps)
                bounds[name] = least if name == "latency_ms" else math.ceil(least)
            on_the_way.append(Budget(**bounds, device=self.device))
        return tuple(dict.fromkeys((*on_the_way, self)))

    def __str__(self) -> str:
        bounds = self.bounds
        return " ".join(
            f"{name}={describe_amount(name, bounds[kind.field])}"
            for name, kind in _KINDS.items()
            if kind.field in bounds
        )


def parse_budget(text: str) -> Budget:
    """A budget as it is typed: names and amounts with their units, in any order, spaces or commas between them.

    ``none`` is a budget without bounds.

    Raises:
        InputError: nothing in it, an unknown name, a name twice, or an amount that ``parse_amount`` refuses.
    """
    if text.strip() == _NOTHING:
        return Budget()
    amounts: dict[str, str] = {}
    for part in text.replace(",", " ").split():
        name, equals, amount = part.partition("=")
        if not equals:
            raise InputError(f"BUDGET: {part!r} has no '='.", f'BUDGET="{_EXAMPLE}" (any of them)')
        if name in amounts:
            raise InputError(f"BUDGET names {name} twice: {amounts[name]} and {amount}.", f"one {name}=")
        amounts[name] = amount
    return read_budget(amounts)


def read_budget(amounts: Mapping[str, str]) -> Budget:
    """A budget from amounts by name, as a recipe or options give them.

    Raises:
        InputError: as ``parse_budget``.
    """
    if not amounts:
        raise InputError("BUDGET is empty.", f'BUDGET="{_EXAMPLE}" (any of them)')
    found: dict[str, float] = {}
    for name, amount in amounts.items():
        if name not in _KINDS:
            near = difflib.get_close_matches(name.lower(), _KINDS, n=1)
            raise InputError(f"BUDGET has no bound {name!r}.", f"{near[0]}=" if near else f"any of {', '.join(_KINDS)}")
        found[_KINDS[name].field] = parse_amount(name, amount)
    return Budget(**found)  # type: ignore[arg-type]


def parse_amount(name: str, text: str) -> float:
    """An amount with its unit: bytes, a count, or milliseconds.

    Args:
        name: ``flash``, ``ram``, ``arena``, ``macs``, ``params`` or ``latency``.
        text: KB is 1000 bytes, KiB 1024; k, M and G are powers of 1000; ms, us or s.

    Raises:
        InputError: no number, no such unit, zero, or a fraction of a byte.

    >>> parse_amount("flash", "1.5KiB"), parse_amount("macs", "4M"), parse_amount("latency", "400us")
    (1536, 4000000, 0.4)
    """
    kind = _KINDS[name]
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise InputError(f"BUDGET: {name}={text} is not a number with a unit.", f"{name}={kind.example}")
    number, unit = match.groups()
    factor = kind.units.get(unit)
    if factor is None:
        units = ", ".join(each for each in kind.units if each)
        given = f"the unit {unit!r}" if unit else "no unit"
        raise InputError(
            f"BUDGET: {name}={text} has {given}; known are {units}.", f"{name}={_nearest(number, unit, kind)}"
        )
    amount = Decimal(number) * factor
    if amount <= 0:
        raise InputError(f"BUDGET: {name}={text} is not above 0.", f"{name}={kind.example}")
    if name == "latency":
        return float(amount)
    if amount != amount.to_integral_value():
        raise InputError(
            f"BUDGET: {name}={text} is {amount.normalize():f}, not a whole number.",
            f"{name}={math.floor(amount) or 1}{'B' if 'B' in kind.units else ''}",
        )
    return int(amount)


def describe_amount(name: str, value: float) -> str:
    """An amount as it would be typed, in the largest unit that keeps every digit.

    >>> describe_amount("ram", 65536), describe_amount("ram", 46080), describe_amount("macs", 4_000_000)
    ('64KiB', '45KiB', '4M')
    >>> describe_amount("flash", 300_001), describe_amount("latency", 0.4)
    ('300001B', '0.4ms')
    """
    if name == "latency":
        return f"{Decimal(str(value)).normalize():f}ms"
    whole = [(int(factor), unit) for unit, factor in _KINDS[name].units.items() if value % int(factor) == 0]
    factor, unit = max(whole, key=lambda each: (each[0] % 1000 == 0, each[0]))
    return f"{int(value) // factor}{unit}"


def _nearest(number: str, unit: str, kind: _Kind) -> str:
    same = [each for each in kind.units if each and each.lower() == unit.lower()]
    return f"{number}{same[0]}" if same else kind.example
