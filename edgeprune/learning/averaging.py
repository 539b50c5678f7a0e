"""Weights averaged over the last steps: the mean of a noisy walk lies nearer to where it leads than its last step."""

import copy

import torch
from torch import nn


class WeightAverage:
    """An exponential moving average of a network's weights, as a network of its own.

    BatchNorm's running statistics are averaged like the weights: those of the last step belong to other weights, and
    averaged over the same steps they lag as the averaged weights do.

    Attributes:
        network: the average, in evaluation mode; as good as the network it follows until the first ``update``.

    Source:
        Polyak, Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging"; the rising decay:
        ``tf.train.ExponentialMovingAverage`` with ``num_updates``.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval()
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take one more step's weights in.

        Args:
            network: the followed one; what is no floating-point number (counters) is copied.
        """
        self._updates += 1
        # Recovery is short: at a fixed decay the wounded network that it starts from would stay in the average.
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for average, value in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)
