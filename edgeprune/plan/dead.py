"""Dead channels: those that never tell their readers anything, as seen on real images.

A channel is judged where it is read, because that is where everything shows: weights that vanished, a ReLU that never
opens, a gate that stays shut, and readers that do not listen.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.dependencies import ChannelGroup, GroupMember
from edgeprune.plan.readings import Reading
from edgeprune.results import GroupPlan

# A channel is silent when it moves each output of its reader by at most this share of what that varies by: each one's
# own range, because a BatchNorm behind it makes all ranges alike. Float32 keeps 24 bits (6e-8) of a sum, and the order
# of summation alone moves some of the last four. Weights that have vanished lie far below, live ones far above.
SILENT_SHARE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadUnits:
    """What is dead in one group; indices are the group's channels.

    Attributes:
        layer: names the group.
        channels: how many it has.
        zero: every reader might as well read zeros.
        constant: every reader reads a constant, and those to whom it makes a difference can keep what it adds.
        held: constant, but a reader cannot keep that: it pads, or has neither a bias nor a BatchNorm of its own.
        gone: of ``zero`` and ``constant``, those that can go; the others stay to keep the alignment.
    """

    layer: str
    channels: int
    zero: tuple[int, ...]
    constant: tuple[int, ...]
    held: tuple[int, ...]
    gone: tuple[int, ...]

    @property
    def plan(self) -> GroupPlan:
        """What stays."""
        kept = tuple(channel for channel in range(self.channels) if channel not in set(self.gone))
        return GroupPlan(layer=self.layer, channels=self.channels, kept=kept)

    @property
    def left(self) -> tuple[int, ...]:
        """Positions, among the channels that stay, of those that are dead and could go."""
        dead = {*self.zero, *self.constant}
        return tuple(position for position, channel in enumerate(self.plan.kept) if channel in dead)


def find_dead_units(
    network: nn.Module,
    groups: Sequence[ChannelGroup],
    readings: Mapping[str, Reading],
    *,
    absorbers: Collection[str],
    align: int,
    zeros_only: bool = False,
) -> tuple[DeadUnits, ...]:
    """Channels that no reader would miss, and which of them can go.

    A reader misses a channel when that can move one of its outputs, by the channel's extremes and the weights that
    read it, by more than ``SILENT_SHARE`` of the range of that output. Outputs that go themselves do not count, so
    that what only they listened to goes with them. Only whole units go, at least one unit of a group stays, and so
    does every power of two up to ``align`` that divides its channel count.

    Args:
        network: where the readings were taken.
        groups: its census.
        readings: from ``watch_layers`` on all train images, best widened by ``watch_shifted``.
        absorbers: layers that can keep what constant inputs add.
        align: kept channels stay a multiple of it where they are one.
        zeros_only: let no channel go that is not zero.

    Returns:
        One entry a group, in their order.
    """
    names = {name for group in groups for name in group.consumers} & set(readings)
    readers = {name: _Reader(network.get_submodule(name), readings[name]) for name in names}
    found: dict[str, DeadUnits] = {}
    while True:
        before = found
        found = {}
        for group in groups:
            gone = before[group.layer].gone if before else ()
            found[group.layer] = _judge(group, readers, absorbers, align=align, zeros_only=zeros_only, gone=gone)
            for member in group.members:
                if member.side == "out" and member.layer in readers:
                    readers[member.layer].drop_outputs(_indices(member, found[group.layer].gone))
        if before and all(found[name].gone == units.gone for name, units in before.items()):
            return tuple(found.values())


def list_constants(
    groups: Iterable[ChannelGroup],
    dead: Iterable[DeadUnits],
    readings: Mapping[str, Reading],
    *,
    absorbers: Collection[str],
) -> dict[str, dict[int, float]]:
    """What the channels that go have told the layers that can keep it: layer to input index to value."""
    gone = {units.layer: units.gone for units in dead}
    constants: dict[str, dict[int, float]] = {}
    for group in groups:
        for member in group.members:
            if member.side == "in" and member.layer in absorbers:
                middle = (readings[member.layer].low.double() + readings[member.layer].high.double()) / 2
                for index in _indices(member, gone[group.layer]):
                    if float(middle[index]) != 0:
                        constants.setdefault(member.layer, {})[index] = float(middle[index])
    return constants


def rank_first(scores: Mapping[str, np.ndarray], left: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Scores in which dead channels go before all others and cost nothing.

    >>> (rank_first({"layer": np.array([2.0, 0.0, 3.0])}, {"layer": [2]})["layer"] < 0).tolist()
    [False, False, True]
    """
    ranked = {name: values.copy() for name, values in scores.items()}
    for name, channels in left.items():
        # The smallest number below zero: before a score of zero in any order, and nothing in any sum.
        ranked[name][list(channels)] = np.nextafter(0.0, -1.0)
    return ranked


class _Reader:
    """One reading layer: how far each of its inputs can move the outputs that stay."""

    def __init__(self, layer: nn.Module, reading: Reading) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        taps = weight.detach().abs()
        self._taps = taps.flatten(2).sum(dim=2) if taps.dim() > 2 else taps
        self._range = reading.output_high - reading.output_low
        self._stays = torch.ones(len(taps), dtype=torch.bool)
        self._width = reading.high - reading.low
        self._reach = torch.maximum(reading.low.abs(), reading.high.abs())
        self._measure()

    def drop_outputs(self, indices: Collection[int]) -> None:
        """Outputs that go: what moves them does not matter."""
        if bool(self._stays[list(indices)].any()):
            self._stays[list(indices)] = False
            self._measure()

    def _measure(self) -> None:
        rows = self._taps[self._stays]
        # 0 / 0 is an input that is not read by an output that does not move.
        shares = torch.where(rows > 0, rows / self._range[self._stays, None], rows)
        most = shares.amax(dim=0) if len(rows) else torch.zeros_like(self._width)
        self.is_constant = _is_silent(self._width, most)
        self.is_zero = _is_silent(self._reach, most)


def _is_silent(move: Tensor, share: Tensor) -> Tensor:
    # An input that never moves is silent even where the output does not move either (0 times infinity); NaN is not.
    return (move == 0) | ((share == 0) & move.isfinite()) | (move * share <= SILENT_SHARE)


def _judge(
    group: ChannelGroup,
    readers: Mapping[str, _Reader],
    absorbers: Collection[str],
    *,
    align: int,
    zeros_only: bool,
    gone: tuple[int, ...],
) -> DeadUnits:
    zero = np.ones(group.channels, dtype=bool)
    constant, free = zero.copy(), zero.copy()
    for member in group.members:
        if member.side == "out":
            continue
        roots = np.array(member.roots)
        if member.layer not in readers:
            # Its weights are used in a way that could not be watched.
            constant[roots] = zero[roots] = False
            continue
        indices = list(member.indices)
        is_zero = readers[member.layer].is_zero[indices].numpy()
        # Several inputs may belong to one channel, behind a flattened map.
        np.logical_and.at(zero, roots, is_zero)
        np.logical_and.at(constant, roots, readers[member.layer].is_constant[indices].numpy())
        if member.layer not in absorbers or zeros_only:
            np.logical_and.at(free, roots, is_zero)
    zero &= constant
    free &= constant

    def whole(which: np.ndarray) -> np.ndarray:
        return which.reshape(-1, group.unit).all(axis=1).repeat(group.unit)

    zero, free, constant = whole(zero), whole(free), whole(constant)
    return DeadUnits(
        layer=group.layer,
        channels=group.channels,
        zero=_positions(zero),
        constant=_positions(free & ~zero),
        held=_positions(constant & ~free),
        gone=_choose(group, _positions(free & ~zero), _positions(zero), align=align, gone=gone),
    )


def _choose(
    group: ChannelGroup, constant: tuple[int, ...], zero: tuple[int, ...], *, align: int, gone: tuple[int, ...]
) -> tuple[int, ...]:
    """Those that go: as many whole units as the alignment lets go."""
    size = math.lcm(math.gcd(align, group.channels), group.unit)
    dead = list(dict.fromkeys([*gone, *constant, *zero]))
    # Constants first: a zero that stays now can go later at no cost, while a constant would be missed then.
    count = min(len(dead) // size, group.channels // size - 1) * size
    return tuple(sorted(dead[:count]))


def _indices(member: GroupMember, channels: Collection[int]) -> list[int]:
    wanted = set(channels)
    return [index for index, root in zip(member.indices, member.roots, strict=True) if root in wanted]


def _positions(which: np.ndarray) -> tuple[int, ...]:
    return tuple(int(position) for position in which.nonzero()[0])
