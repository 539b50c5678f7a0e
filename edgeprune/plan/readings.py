"""What the layers of a network's groups are given and give, at most and at least, over many images."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.dependencies import ChannelGroup

# Of what a channel's layer makes of it. Of 139 channels of the shipped baseline that were silent on all 1,705 train
# images, 919 other images woke some, so that logits moved by 5e-4; none of the 64 that bear a quarter, one of the 89
# that bear a tenth.
SHIFT_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Extremes at one layer, over images and positions.

    Attributes:
        low, high: of each input channel or feature, shape (inputs,).
        output_low, output_high: of each output, shape (outputs,).
    """

    low: Tensor
    high: Tensor
    output_low: Tensor
    output_high: Tensor


Readings = dict[str, Reading]


def watch_layers(
    network: nn.Module,
    groups: Iterable[ChannelGroup],
    batches: Iterable[Tensor],
    *,
    before: Mapping[str, Reading] | None = None,
) -> Readings:
    """See what every convolution and linear layer of a network's groups is given, and what it gives.

    Args:
        network: set to evaluation mode; not changed otherwise.
        groups: its census.
        batches: normalised images, shape (n, 3, height, width).
        before: what was seen on other images, to be widened.

    Returns:
        Layer to what was seen there; a layer that is never called is missing.
    """
    seen = dict(before or {})

    def note(name: str, layer: nn.Module, given: Tensor, made: Tensor) -> None:
        low, high = _extremes(layer, given)
        output_low, output_high = _extremes(layer, made)
        now = Reading(low=low, high=high, output_low=output_low, output_high=output_high)
        seen[name] = _join(seen[name], now) if name in seen else now

    with _hooked(network, {member.layer for group in groups for member in group.members}, note):
        _run(network, batches)
    return seen


def watch_shifted(
    network: nn.Module,
    groups: Iterable[ChannelGroup],
    batches: Callable[[], Iterable[Tensor]],
    *,
    readings: Mapping[str, Reading],
    channels: Mapping[str, Collection[int]],
) -> Readings:
    """See what layers are given when some channels are shifted where they are made, up and down by ``SHIFT_SHARE``.

    A ReLU that never opened on the images at hand may open on the next one. What has stayed silent with a margin stays
    silent; a channel whose weights have vanished has no range to be shifted by, and needs none.

    Args:
        network: set to evaluation mode; not changed otherwise.
        groups: its census.
        batches: begins again with the same images at every call.
        readings: from ``watch_layers``, on those images.
        channels: group name to the channels that are shifted.

    Returns:
        ``readings``, their inputs widened; outputs are as they were without a shift.
    """
    groups = list(groups)
    offsets: dict[str, Tensor] = {}
    for group in groups:
        chosen = set(channels.get(group.layer, ()))
        for member in group.members:
            if member.side == "in" or member.layer not in readings:
                continue
            there = [index for index, root in zip(member.indices, member.roots, strict=True) if root in chosen]
            made = readings[member.layer]
            offset = offsets.setdefault(member.layer, torch.zeros_like(made.output_low))
            offset[there] = SHIFT_SHARE * (made.output_high - made.output_low)[there]
    widened = dict(readings)
    for sign in (1.0, -1.0):

        def shift(name: str, layer: nn.Module, given: Tensor, made: Tensor, sign: float = sign) -> Tensor:
            offset = sign * offsets[name]
            return made + (offset if isinstance(layer, nn.Linear) else offset[:, None, None])

        with _hooked(network, offsets, shift):
            widened = watch_layers(network, groups, batches(), before=widened)
    return {
        name: Reading(
            low=reading.low,
            high=reading.high,
            output_low=readings[name].output_low,
            output_high=readings[name].output_high,
        )
        for name, reading in widened.items()
    }


@contextmanager
def _hooked(
    network: nn.Module, layers: Iterable[str], act: Callable[[str, nn.Module, Tensor, Tensor], Tensor | None]
) -> Iterator[None]:
    modules = [(name, network.get_submodule(name)) for name in sorted(layers)]
    hooks: list[Any] = [
        module.register_forward_hook(lambda layer, inputs, output, name=name: act(name, layer, inputs[0], output))
        for name, module in modules
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _run(network: nn.Module, batches: Iterable[Tensor]) -> None:
    network.eval()
    with torch.inference_mode():
        for images in batches:
            network(images)


def _join(one: Reading, other: Reading) -> Reading:
    return Reading(
        low=torch.minimum(one.low, other.low),
        high=torch.maximum(one.high, other.high),
        output_low=torch.minimum(one.output_low, other.output_low),
        output_high=torch.maximum(one.output_high, other.output_high),
    )


def _extremes(layer: nn.Module, values: Tensor) -> tuple[Tensor, Tensor]:
    # The channels' axis goes last: for channels_last images that is no copy.
    rows = values.movedim(-1 if isinstance(layer, nn.Linear) else 1, -1).flatten(0, -2)
    low, high = torch.aminmax(rows, dim=0)
    return low, high
