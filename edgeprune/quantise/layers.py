"""Layers with weights, as int8 sees them: their parameters, and the ranges that pass through them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeprune.quantise.graph import is_depthwise


@dataclass(slots=True)
class LayerRanges:
    """Lowest and highest input and output of a layer over the images, zero included."""

    input_low: float = 0.0
    input_high: float = 0.0
    output_low: float = 0.0
    output_high: float = 0.0


def layer_ranges(network: nn.Module, images: Tensor) -> dict[str, LayerRanges]:
    """What each layer is given and gives, over images of shape (n, 3, height, width)."""
    ranges: dict[str, LayerRanges] = {}

    def note(name: str, given: Tensor, result: Tensor) -> None:
        seen = ranges.setdefault(name, LayerRanges())
        seen.input_low, seen.input_high = (
            min(seen.input_low, float(given.min())),
            max(seen.input_high, float(given.max())),
        )
        seen.output_low = min(seen.output_low, float(result.min()))
        seen.output_high = max(seen.output_high, float(result.max()))

    hooks = [
        layer.register_forward_hook(lambda _, inputs, result, name=name: note(name, inputs[0], result))
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return ranges


def weight_of(layer: nn.Module) -> Tensor:
    """The weight; rows are output channels."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def bias_of(layer: nn.Module) -> Tensor:
    """The bias; zeros where there is none."""
    bias = layer.bias
    return bias if isinstance(bias, Tensor) else torch.zeros(len(weight_of(layer)))


def set_parameter(layer: nn.Module, name: str, value: Tensor) -> None:
    """Replace a parameter, by one of another shape too."""
    layer.register_parameter(name, nn.Parameter(value.detach().clone()))


def scale_columns(layer: nn.Module, scale: Tensor) -> None:
    """Multiply what a layer makes of each input channel; ``scale`` has shape (input channels,)."""
    weight = weight_of(layer)
    shape = (-1, *[1] * (weight.dim() - 1)) if is_depthwise(layer) else (1, -1, *[1] * (weight.dim() - 2))
    set_parameter(layer, "weight", weight * scale.view(shape))
