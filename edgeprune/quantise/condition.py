"""Weights made fit for int8, while the network computes the same: dead units out, ranges evened out, rows floored.

MobileNetV3 falls to chance in int8 for two reasons, neither of which raises an error: rows that weight decay has
shrunk to nothing overflow their int32 bias, and channels of one tensor whose ranges differ by hundreds share one scale.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeprune.absorb import is_unpadded
from edgeprune.quantise.fold import fold_batchnorm
from edgeprune.quantise.graph import ScaleGroup, find_scale_groups, is_depthwise
from edgeprune.quantise.hard_swish import use_linear_stretch
from edgeprune.quantise.layers import LayerRanges, bias_of, layer_ranges, scale_columns, set_parameter, weight_of
from edgeprune.quantise.parts import compute_in_parts

# A unit is dead when its weights can move no reader's output by more than this share of that output's range.
_DEAD_SHARE = 1e-6
# An int32 bias holds 31 bits; accumulators add up on top of it.
_BIAS_BITS = 28
_INT8_STEPS = 127
_BYTE_STEPS = 255
# Scales beyond this would only move the imbalance into the weights.
_MAX_SCALE = 2.0**10


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioned:
    """A network that is ready to be quantised, and what was done to it.

    Attributes:
        network: BatchNorm folded; equal to the given one up to rounding.
        dead_units: removed, because their output is constant; it went into the next layer's bias.
        equalised_channels: rescaled between the layers that make and read them.
        floored_rows: whose largest weight was raised so that the bias fits int32 with room; that moves an output by at
            most 1.3e-4 of its bias.
        parts: channels of each part that the widest hard-swish is computed in; empty where it is computed whole.
    """

    network: nn.Module
    dead_units: int
    equalised_channels: int
    floored_rows: int
    parts: tuple[int, ...]


def condition_network(network: nn.Module, images: Tensor, *, equalise: bool = True, split: bool = True) -> Conditioned:
    """Fold BatchNorm, remove dead units, equalise ranges across layers, split what decides memory, floor vanished rows.

    Args:
        network: not changed.
        images: normalised train images, shape (n, 3, height, width); ranges are taken from them.
        equalise: rescale channels between layers where the activation allows it.
        split: compute the widest hard-swish in parts where that takes less memory.

    Raises:
        EdgepruneError: the network cannot be traced.

    Source:
        Nagel, van Baalen, Blankevoort, Welling 2019, "Data-Free Quantization Through Weight Equalization and Bias
        Correction", section 4.1; the balance of activations against weights as in Xiao et al. 2023, "SmoothQuant",
        equation 4 with a migration strength of one half.
    """
    folded = fold_batchnorm(network)
    with torch.no_grad():
        ranges = layer_ranges(folded, images)
        dead = sum(_remove_dead(folded, group, ranges) for group in find_scale_groups(folded, images) if group.plain)
        equalised = 0
        if equalise:
            for group in find_scale_groups(folded, images):
                evened = use_linear_stretch if group.hard_swish else _equalise
                equalised += evened(folded, group, images)
        parts = compute_in_parts(folded, images) if split else ()
        floored = _floor_rows(folded, images)
    return Conditioned(network=folded, dead_units=dead, equalised_channels=equalised, floored_rows=floored, parts=parts)


def _remove_dead(network: nn.Module, group: ScaleGroup, ranges: dict[str, LayerRanges]) -> int:
    producer = network.get_submodule(group.producers[0])
    consumers = [network.get_submodule(name) for name in group.consumers]
    if is_depthwise(producer) or not all(is_unpadded(consumer) for consumer in consumers):
        return 0
    weight, bias = weight_of(producer), bias_of(producer)
    seen = ranges[group.producers[0]]
    moved = weight.flatten(1).abs().sum(1) * max(-seen.input_low, seen.input_high)
    dead = torch.ones(len(weight), dtype=torch.bool)
    for name, consumer in zip(group.consumers, consumers, strict=True):
        columns = weight_of(consumer)
        taps = columns.flatten(2).abs().sum(2) if columns.dim() > 2 else columns.abs()
        reach = max(-ranges[name].output_low, ranges[name].output_high)
        dead &= moved * taps.amax(0) <= _DEAD_SHARE * reach
    if bool(dead.all()):
        dead[0] = False
    if not bool(dead.any()):
        return 0
    constant = group.high.where(dead, torch.zeros_like(group.high))
    kept = (~dead).nonzero().flatten()
    for consumer in consumers:
        columns = weight_of(consumer)
        taps = columns.flatten(2).sum(2) if columns.dim() > 2 else columns
        set_parameter(consumer, "bias", bias_of(consumer) + taps @ constant)
        set_parameter(consumer, "weight", columns[:, kept])
        setattr(consumer, "in_channels" if isinstance(consumer, nn.Conv2d) else "in_features", len(kept))
    set_parameter(producer, "weight", weight[kept])
    set_parameter(producer, "bias", bias[kept])
    setattr(producer, "out_channels" if isinstance(producer, nn.Conv2d) else "out_features", len(kept))
    return int(dead.sum())


def _equalise(network: nn.Module, group: ScaleGroup, images: Tensor) -> int:
    del images  # their ranges are the group's
    reach = torch.maximum(group.low.abs(), group.high.abs())
    alive = reach > 0
    if int(alive.sum()) < 2:
        return 0
    columns = [_column_reach(network.get_submodule(name)) for name in group.consumers]
    dense = [column for column in columns if column is not None]
    if dense:
        needed = torch.stack(dense).amax(0).clamp_min(1e-12)
        scale = (reach.clamp_min(1e-12) / needed).sqrt()
    else:
        # Depthwise readers have a weight scale of their own for every channel: all of the imbalance can go there.
        scale = reach.clamp_min(1e-12)
    scale = (scale / scale[alive].log().mean().exp()).clamp(1 / _MAX_SCALE, _MAX_SCALE)
    scale = scale.where(alive, torch.ones_like(scale))
    for name in group.producers:
        layer = network.get_submodule(name)
        weight = weight_of(layer)
        set_parameter(layer, "weight", weight / scale.view(-1, *[1] * (weight.dim() - 1)))
        set_parameter(layer, "bias", bias_of(layer) / scale)
    for name in group.consumers:
        scale_columns(network.get_submodule(name), scale)
    return int(alive.sum())


def _column_reach(layer: nn.Module) -> Tensor | None:
    """How much of a row's range each input channel takes up, at most; None for a depthwise convolution."""
    if is_depthwise(layer):
        return None
    weight = weight_of(layer).flatten(2).abs().amax(2) if weight_of(layer).dim() > 2 else weight_of(layer).abs()
    return (weight / weight.amax(1, keepdim=True).clamp_min(1e-12)).amax(0)


def _floor_rows(network: nn.Module, images: Tensor) -> int:
    floored = 0
    for name, seen in layer_ranges(network, images).items():
        step = max(seen.input_high - seen.input_low, 1e-9) / _BYTE_STEPS
        layer = network.get_submodule(name)
        weight, bias = weight_of(layer), bias_of(layer)
        rows = weight.flatten(1).clone()
        # bias / (input step * weight step) must stay below 2 ** _BIAS_BITS.
        needed = _INT8_STEPS * bias.abs() / (step * 2.0**_BIAS_BITS)
        reach, index = rows.abs().max(1)
        low = (reach < needed).nonzero().flatten()
        if len(low):
            rows[low, index[low]] = torch.where(rows[low, index[low]] < 0, -needed[low], needed[low])
            set_parameter(layer, "weight", rows.view_as(weight))
            floored += len(low)
    return floored
