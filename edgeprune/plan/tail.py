"""Bytes of the arena's tail that the int8 file of a network takes in TFLite Micro, on a 64-bit host.

Each output channel of a convolution or linear layer takes 8: a multiplier and a shift. The rest goes with operators and
tensors. Fitted to nine files of three networks, of 89 to 153 KB: each channel's part exactly, the rest within 0.1 %.
"""

import numpy as np
from torch import nn

from edgeprune.plan.flash import WEIGHTED
from edgeprune.plan.liveness import MemoryPlan
from edgeprune.plan.operators import LayerChannels

_BYTES_PER_CHANNEL = 8
_BYTES_PER_OPERATOR = 141
_BYTES_FIXED = 6500


def sum_tail(network: nn.Module, layers: LayerChannels, memory: MemoryPlan) -> np.ndarray:
    """The whole tail, as one vector ``v`` (see ``operators``), shape (1 + groups,).

    Args:
        network: with all its channels.
        layers: its channels.
        memory: the file's operators.
    """
    modules = dict(network.named_modules())
    tail = layers.fixed(_BYTES_FIXED + _BYTES_PER_OPERATOR * len(memory.steps))
    for step in memory.steps:
        if step.kind in WEIGHTED and isinstance(modules.get(step.layer), nn.Conv2d | nn.Linear):
            tail = tail + _BYTES_PER_CHANNEL * layers.made(step.layer)
    return tail
