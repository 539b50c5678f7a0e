"""The two places where int8 rounds, as modules that training can see through: activations and weights.

Weights are symmetric in [-127, 127] with one scale a row, activations affine in [-128, 127] with one scale a tensor.

Source:
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    sections 2.1 and 3.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.calibration import LEAST_RANGE

# The end of a range moves by so many times the learning rate a step, relative to its size: there are few of them, and
# each sees a whole tensor.
_PACE = 25.0


class RoundActivation(nn.Module):
    """Rounds a tensor to the int8 steps of a range that can be trained.

    Attributes:
        place: where the tensor is computed, see ``read_ranges``.
        also: other places whose ranges are this one times a factor.
        floor: the range begins here at the lowest.
        ends_block: its input is a block's output, before any activation.
        stretch: trained; shape (2,), zeros leave the ends where ``set_range`` has put them.
    """

    low: Tensor
    high: Tensor

    def __init__(self, place: str, *, also: Mapping[str, float], floor: float, ends_block: bool) -> None:
        super().__init__()
        self.place = place
        self.also = also
        self.floor = floor
        self.ends_block = ends_block
        self.stretch = nn.Parameter(torch.zeros(2))
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self._observer: Callable[[Tensor], None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``; the first dimension is images."""
        if self._observer is not None:
            self._observer(x)
            return x
        return _Round.apply(x, *self.ends())  # type: ignore[no-untyped-call,no-any-return]

    def ends(self) -> tuple[Tensor, Tensor]:
        """Low and high, which hold zero."""
        factors = (_PACE * self.stretch).exp()
        low = (self.low * factors[0]).clamp_min(self.floor)
        return low, torch.maximum(self.high * factors[1], low + LEAST_RANGE)

    def observe(self, observer: Callable[[Tensor], None] | None) -> None:
        """Show every input to the observer and do not round it; None rounds again."""
        self._observer = observer

    def set_range(self, low: float, high: float) -> None:
        """Round to the 256 steps between two bounds, which hold zero."""
        self.low.fill_(low)
        self.high.fill_(high)


class _Round(torch.autograd.Function):
    """Rounding to int8 steps, with a gradient for the ends of the range.

    Source:
        Esser et al. 2020, "Learned Step Size Quantization", section 2.1; for both ends: Jain et al. 2020, "Trained
        Quantization Thresholds for Accurate and Efficient Fixed-Point Inference of Deep Neural Networks", section 3.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        step = float(high - low) / 255
        zero_point = max(-128, min(127, round(-128 - float(low) / step)))
        rounded = (x / step).round_().clamp_(-128 - zero_point, 127 - zero_point).mul_(step)
        ctx.save_for_backward(rounded - x)
        ctx.step = step
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (moved,) = ctx.saved_tensors
        passed = gradient * (moved.abs() <= 0.5001 * ctx.step)
        by_step = (passed * moved).sum() / (ctx.step * 255)
        clipped = gradient - passed
        above = (clipped * (moved < 0)).sum()
        return passed, clipped.sum() - above - by_step, above + by_step


class RoundedLayer(nn.Module):
    """A convolution or linear layer that computes with weights rounded to int8 steps."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.rounding = True

    def forward(self, x: Tensor) -> Tensor:
        """As the layer."""
        if not self.rounding:
            return self.layer(x)  # type: ignore[no-any-return]
        return torch.func.functional_call(self.layer, {"weight": self.rounded_weight()}, (x,))  # type: ignore[no-any-return]

    def rounded_weight(self) -> Tensor:
        """The weight at whole steps; shape of the layer's own."""
        weight = self.layer.weight
        scale = weight.detach().flatten(1).abs().amax(1).clamp_min(1e-12) / 127
        zero_points = torch.zeros(len(scale), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero_points, 0, -127, 127)
