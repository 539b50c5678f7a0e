"""Bytes of the int8 TFLite file that a network would become.

Weights take a byte each; every output channel a bias of 4 bytes, and scale and zero point of 12 bytes for its weights
and again for its bias. The rest is tables. Their constants are fitted to eight files of six networks (0.2 to 2.7 MB,
none of them further off than 0.25 %), the fixed part to two bundles with their texts (20 bytes off in 1.1 and 1.8 MB).
"""

import math

from torch import nn

from edgeprune.plan.file_steps import Step
from edgeprune.plan.liveness import MemoryPlan
from edgeprune.plan.operators import LayerChannels
from edgeprune.plan.products import Product

# Steps with weights of their own.
WEIGHTED = frozenset({"conv2d", "depthwise", "linear"})
_BYTES_PER_CHANNEL = 4 + 2 * 12
# Bytes of an operator, its tensors and their buffers: a layer has weights and bias besides its result.
_BYTES_PER_LAYER = 352
_BYTES_PER_OPERATOR = 138
_BYTES_PER_PAD = 273
# What the file says about itself, and the lists of all tables.
_BYTES_FIXED = 2500
# A chain in three parts has two more of each of its operators, and a concatenation.
_BYTES_OF_PARTS = 4 * _BYTES_PER_LAYER + 3 * _BYTES_PER_OPERATOR


def list_flash(network: nn.Module, layers: LayerChannels, memory: MemoryPlan) -> list[Product]:
    """Everything that the file holds.

    Args:
        network: with all its channels.
        layers: its channels.
        memory: the file's operators.
    """
    modules = dict(network.named_modules())
    one = layers.fixed(1)
    fixed = _BYTES_FIXED + (_BYTES_OF_PARTS if memory.chains else 0)
    found = [Product(layer="", kind="file", factor=float(fixed), one=one, other=one)]
    for step in memory.steps:
        module = modules.get(step.layer)
        if step.kind in WEIGHTED and isinstance(module, nn.Conv2d | nn.Linear):
            made, kernel = layers.made(step.layer), math.prod(module.weight.shape[2:])
            found += [
                Product(layer=step.layer, kind="weights", factor=kernel, one=made, other=layers.read(step.layer)),
                Product(layer=step.layer, kind="channels", factor=_BYTES_PER_CHANNEL, one=made, other=one),
            ]
        elif step.kind == "affine" and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            # Factor and summand, a byte each.
            found.append(Product(layer=step.layer, kind="channels", factor=2, one=layers.made(step.layer), other=one))
        found.append(Product(layer=step.layer, kind="tables", factor=_table_bytes(step), one=one, other=one))
    return found


def _table_bytes(step: Step) -> int:
    if step.kind in WEIGHTED:
        return _BYTES_PER_LAYER
    return _BYTES_PER_PAD if step.kind == "pad" else _BYTES_PER_OPERATOR
