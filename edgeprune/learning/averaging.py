"""Weights averaged over the last steps: the mean of a noisy walk lies nearer to where it leads than its last step."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

_UPDATES = "#updates"  # no tensor of a network can be called so


class WeightAverage:
    """An exponential moving average of a network's weights, as a network of its own.

    BatchNorm's running statistics are averaged like the weights: those of the last step belong to other weights, and
    averaged over the same steps they lag as the averaged weights do.

    Args:
        network: is followed; its tensors are to change in place.
        decay: a step.

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
        # Both are changed in place only; collecting them again after every step takes as long as averaging does.
        self._averages = tuple(self.network.state_dict().values())
        self._followed = tuple(network.state_dict().values())

    @torch.no_grad()
    def update(self) -> None:
        """Take one more step's weights in; what is no floating-point number (counters) is copied."""
        self._updates += 1
        # Recovery is short: at a fixed decay the wounded network that it starts from would stay in the average.
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for average, value in zip(self._averages, self._followed, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)

    def state(self) -> dict[str, Tensor]:
        """The average and how many steps are in it, by name."""
        return {**self.network.state_dict(), _UPDATES: torch.tensor(self._updates)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state of the same network."""
        self._updates = int(state[_UPDATES])
        self.network.load_state_dict({name: value for name, value in state.items() if name != _UPDATES})
