"""TensorFlow's SAME padding for strided convolutions.

PyTorch pads a stride-2 convolution by the same amount on every side; TensorFlow's SAME puts the odd pixel at the
bottom right. A network trained with PyTorch's rule therefore needs an explicit PAD operator in TFLite before every
such convolution, and that PAD is where the memory peak sits (18 % of the arena of the reference network). Trained
with SAME from the start it needs none.
"""

from torch import Tensor, nn
from torch.nn import functional

from edgeprune.errors import InputError


class SameConv2d(nn.Conv2d):
    """A convolution whose input is padded by TensorFlow's SAME rule.

    The output has ``ceil(size / stride)`` rows and columns. With ``total = max((ceil(size / stride) - 1) * stride +
    kernel - size, 0)`` pixels of zeros to add, ``total // 2`` go before and the rest after.

    Source:
        TensorFlow, ``tf.nn`` notes on padding, "SAME".
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pad, then convolve; shape (n, in, height, width) to (n, out, ceil(height / stride), ceil(width / stride))."""
        pads: list[int] = []
        # functional.pad lists the last dimension first.
        for axis in (1, 0):
            size, stride = x.shape[2 + axis], self.stride[axis]
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(x, pads))


def use_same_padding(network: nn.Module) -> nn.Module:
    """Replace every padded convolution with stride above 1 by a ``SameConv2d`` with the same parameters.

    Args:
        network: changed in place; it is freshly built and nobody else holds it.

    Returns:
        The network.

    Raises:
        InputError: such a convolution is of a kind that computes more than a convolution.
    """
    replaced: dict[nn.Module, SameConv2d] = {}
    # With duplicates: a convolution that has several names gets the same replacement under each.
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1 and module.padding not in _NO_PADDING:
            if type(module) is not nn.Conv2d:
                raise InputError(
                    f"model.pad = 'same' cannot replace {name}, a {type(module).__name__}: it knows only plain "
                    "convolutions.",
                    "model: {pad: torch}, and export: {pad: rotate} for TFLite files without PAD operators",
                )
            if module not in replaced:
                replaced[module] = _as_same(module)
            network.set_submodule(name, replaced[module])
    return network


_NO_PADDING = ((0, 0), "valid")


def _as_same(module: nn.Conv2d) -> SameConv2d:
    same = SameConv2d(
        module.in_channels,
        module.out_channels,
        module.kernel_size,  # type: ignore[arg-type]
        module.stride,  # type: ignore[arg-type]
        0,
        module.dilation,  # type: ignore[arg-type]
        module.groups,
        module.bias is not None,
    )
    same.load_state_dict(module.state_dict())
    return same
