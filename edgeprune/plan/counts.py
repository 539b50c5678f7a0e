"""Parameters and multiply-accumulates of a network, layer by layer, as products of channel counts."""

import math
from collections.abc import Sequence

from torch import nn

from edgeprune.plan.operators import LayerChannels, Operator
from edgeprune.plan.products import Product


def list_params(network: nn.Module, layers: LayerChannels) -> list[Product]:
    """Weights and biases, each once, BatchNorm's included."""
    found: list[Product] = []
    seen: set[int] = set()
    one = layers.fixed(1)
    for name, module in network.named_modules():
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if not isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d):
                made, read, factor = one, one, float(parameter.numel())
            elif parameter.dim() > 1:
                made, read = layers.made(name), layers.read(name)
                factor = float(math.prod(parameter.shape[2:]))
            else:
                made, read, factor = layers.made(name), one, 1.0
            found.append(Product(layer=name, kind=parameter_name, factor=factor, one=made, other=read))
    return found


def list_macs(operators: Sequence[Operator], layers: LayerChannels) -> list[Product]:
    """As fvcore counts, which leaves everything out that works element by element.

    Source:
        fvcore 0.1.5, ``nn/flop_count.py`` and ``nn/jit_handles.py``.
    """
    found = []
    one = layers.fixed(1)
    for operator in operators:
        shapes = [operators[source] for source in operator.sources]
        total = math.prod(operator.shape)
        if operator.weighted and operator.kind == "conv2d":
            window = operator.window
            assert window is not None
            pixels = total // operator.shape[1]
            pointwise = window.kernel == (1, 1)
            kind = "depthwise" if operator.depthwise else "pointwise" if pointwise else "conv"
            factor, made, read = (
                pixels * math.prod(window.kernel),
                layers.made(operator.layer),
                layers.read(operator.layer),
            )
        elif operator.weighted:
            kind, factor = "linear", total // operator.shape[-1]
            made, read = layers.made(operator.layer), layers.read(operator.layer)
        elif operator.kind in ("batch_norm", "layer_norm", "group_norm", "instance_norm"):
            plain, scaled = (1, 2) if operator.kind == "batch_norm" else (4, 5)
            kind, factor = "batch_norm", scaled if operator.affine else plain
            made, read = shapes[0].elements, one
        elif operator.kind == "adaptive_avg_pool2d":
            kind, factor, made, read = "pool", 1, shapes[0].elements, one
        elif operator.kind in ("conv2d", "linear", "matmul", "bmm") and len(shapes) == 2:
            kind, factor, made, read = "conv", total * shapes[0].shape[-1], one, one
        else:
            continue
        found.append(Product(layer=operator.layer, kind=kind, factor=float(factor), one=made, other=read))
    return found
