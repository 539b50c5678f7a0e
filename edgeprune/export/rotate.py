"""The same network for images turned by 180 degrees: PyTorch's symmetric padding becomes TensorFlow's SAME, exactly.

At stride 2 on an even size PyTorch's windows begin one pixel outside the image at the top left and end inside it at the
bottom right; TensorFlow's do the opposite, so a converter writes a PAD operator before each such layer. Turn the image
and every kernel by 180 degrees and the odd pixel is where TensorFlow wants it. Nothing is trained, nothing is rounded;
only the image must be fed upside down.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.errors import InputError
from edgeprune.zoo import SameConv2d

# What two orders of adding the same float64 products may differ by, relative to the tensor's largest or its length.
_MAX_DIFFERENCE = 1e-9
_PROBES = 2
_REMEDY = "leave export.pad as it is, or train with `model: {pad: same}`, which needs no rotation"
# These move pixels about in ways of their own, and no rule here says what turns them.
_UNTURNABLE = (
    nn.Conv1d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.FractionalMaxPool2d,
    nn.LPPool2d,
    nn.MaxUnpool2d,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.Unfold,
    nn.Fold,
)


def rotate_network(network: nn.Module, *, image_size: int) -> nn.Module:
    """A copy that answers for an image turned by 180 degrees what the network answers for the image.

    ``rotated(torch.rot90(x, 2, (2, 3)))`` equals ``network(x)`` up to the order of additions; that is proved in float64
    on random images before the copy is returned. Every padding in it is what TensorFlow's SAME is at that size, so that
    a converter leaves no PAD operator. A strided convolution without padding that skips the last row and column gets a
    kernel with zeros for them (1 x 1 becomes 2 x 2 in a ResNet's shortcuts).

    Args:
        network: not changed.
        image_size: height and width of its input, pixels. At another size the copy may answer something else.

    Returns:
        The copy, in evaluation mode, on the CPU.

    Raises:
        InputError: a layer's padding is not SAME after the turn at the size it sees, or the network depends on where
            up is; with the layer's name and that size.

    Source:
        Padding: TensorFlow, ``tf.nn`` notes on padding, "SAME".
    """
    original = copy.deepcopy(network).cpu().eval()
    shapes = _input_shapes(original, image_size)
    turned = copy.deepcopy(original)
    for name, module in list(turned.named_modules()):
        if isinstance(module, _UNTURNABLE):
            raise InputError(f"{name} is a {type(module).__name__}, for which no turn is known.", _REMEDY)
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) and name in shapes:
            turned.set_submodule(name, _turn_layer(name, module, shapes[name]))
    _prove_equal(original, turned, image_size)
    return turned


def _input_shapes(network: nn.Module, image_size: int) -> dict[str, list[torch.Size]]:
    """What each convolution and pool is given, in the order of its calls; a layer that is never called is absent."""
    shapes: dict[str, list[torch.Size]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: shapes.setdefault(name, []).append(given[0].shape))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
    ]
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise InputError(
            f"{type(network).__name__} does not run at {image_size} x {image_size} pixels: {_first_line(error)}.",
            "another data.image_size",
        ) from None
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def _turn_layer(name: str, module: nn.Module, shapes: list[torch.Size]) -> nn.Module:
    turn = _turn_convolution if isinstance(module, nn.Conv2d) else _turn_pool
    candidates = [turn(name, module, shape) for shape in shapes]
    # Equal layers print equally: they hold the same weights.
    if len({repr(candidate) for candidate in candidates}) > 1:
        seen = ", ".join(f"{shape[2]} x {shape[3]}" for shape in shapes)
        raise InputError(f"{name} is called at {seen} pixels, which need different paddings.", _REMEDY)
    return candidates[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Windows:
    """Where a layer's windows lie along one axis once the image is turned.

    Attributes:
        before, after: pixels outside the image that the first and the last window reach; negative: pixels that it
            leaves out.
        same: that many windows, and those pixels, are TensorFlow's SAME: the odd pixel comes last.
    """

    before: int
    after: int
    same: bool

    @property
    def valid(self) -> bool:
        """No window reaches outside, none leaves a pixel out at the beginning: TensorFlow's VALID."""
        return self.before == 0 and self.after <= 0


def _turn_windows(size: int, *, reach: int, stride: int, before: int, after: int, ceil: bool = False) -> _Windows:
    """Where the windows lie after the turn, from padding before it."""
    steps = size + before + after - reach
    count = (-(-steps // stride) if ceil else steps // stride) + 1
    if ceil and (count - 1) * stride >= size + before:
        count -= 1  # torch drops a window that would begin behind the image
    # What the last window reaches over, the first one does after the turn; and the other way round.
    first, last = (count - 1) * stride + reach - before - size, before
    same = count == -(-size // stride) and first >= 0 and last - first in (0, 1)
    return _Windows(before=first, after=last, same=same)


def _turn_convolution(name: str, module: nn.Module, shape: torch.Size) -> nn.Conv2d:
    assert isinstance(module, nn.Conv2d)
    if isinstance(module, SameConv2d):
        raise InputError(f"{name} has TensorFlow's SAME padding already, upright: nothing is to be turned.", _REMEDY)
    if type(module) is not nn.Conv2d or module.padding_mode != "zeros":
        raise InputError(f"{name} is a convolution of its own kind: {module!r}.", _REMEDY)
    kernel, stride, dilation = _pair(module.kernel_size), _pair(module.stride), _pair(module.dilation)
    weight = module.weight.detach().flip(2, 3)
    windows = []
    for axis in range(2):
        size, reach = shape[2 + axis], dilation[axis] * (kernel[axis] - 1) + 1
        before, after = _convolution_padding(module, axis, reach)
        seen = _turn_windows(size, reach=reach, stride=stride[axis], before=before, after=after)
        if seen.before < 0 and seen.before % dilation[axis] == 0:
            # The turned windows begin behind the first row: taps of zero let them begin at the image's edge.
            taps = -seen.before // dilation[axis]
            weight = functional.pad(weight, (taps, 0, 0, 0) if axis else (0, 0, taps, 0))
            seen = _turn_windows(
                size, reach=reach - seen.before, stride=stride[axis], before=before, after=after - seen.before
            )
        windows.append(seen)
    valid = all(seen.valid for seen in windows)
    if not valid and not all(seen.same for seen in windows):
        raise _not_same(name, shape, f"{module!r}")
    symmetric = all(seen.before == seen.after for seen in windows)
    plain = valid or (symmetric and max(stride) == 1)
    kind, padding = (nn.Conv2d, [0 if valid else seen.before for seen in windows]) if plain else (SameConv2d, [0, 0])
    result = kind(
        module.in_channels,
        module.out_channels,
        (weight.shape[2], weight.shape[3]),
        stride,
        (padding[0], padding[1]),
        dilation,
        module.groups,
        module.bias is not None,
    )
    result.weight, result.bias = nn.Parameter(weight), module.bias
    return result.eval()


def _turn_pool(name: str, module: nn.Module, shape: torch.Size) -> nn.Module:
    assert isinstance(module, nn.MaxPool2d | nn.AvgPool2d)
    kernel, stride, padding = _pair(module.kernel_size), _pair(module.stride), _pair(module.padding)
    dilation = _pair(module.dilation) if isinstance(module, nn.MaxPool2d) else (1, 1)
    windows = [
        _turn_windows(
            shape[2 + axis],
            reach=dilation[axis] * (kernel[axis] - 1) + 1,
            stride=stride[axis],
            before=padding[axis],
            after=padding[axis],
            ceil=module.ceil_mode,
        )
        for axis in range(2)
    ]
    valid = all(seen.valid for seen in windows)
    if not valid and not all(seen.same for seen in windows):
        raise _not_same(name, shape, f"{module!r}")
    if valid:
        return module
    before = (windows[0].before, windows[1].before)
    # Outside the image lies nothing that could be a maximum; ceil_mode lets the last window reach there.
    ceil = any(seen.before != seen.after for seen in windows)
    if isinstance(module, nn.MaxPool2d):
        return nn.MaxPool2d(kernel, stride, before, dilation, module.return_indices, ceil)
    if not (module.count_include_pad or module.divisor_override):
        return nn.AvgPool2d(kernel, stride, before, ceil, count_include_pad=False)
    # Runtimes' average pools do not count what lies outside; a convolution with equal weights does.
    channels = shape[1]
    average = SameConv2d(channels, channels, kernel, stride, groups=channels, bias=False)
    nn.init.constant_(average.weight, 1 / (module.divisor_override or kernel[0] * kernel[1]))
    return average.eval()


def _convolution_padding(module: nn.Conv2d, axis: int, reach: int) -> tuple[int, int]:
    if module.padding == "same":
        return (reach - 1) // 2, reach - 1 - (reach - 1) // 2
    if module.padding == "valid":
        return 0, 0
    assert isinstance(module.padding, tuple)
    return module.padding[axis], module.padding[axis]


def _prove_equal(original: nn.Module, turned: nn.Module, image_size: int) -> None:
    """Compare in float64 on random images: every layer, then the logits, in which a difference may have vanished.

    Raises:
        InputError: they differ; names the first layer that does.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(_PROBES, 3, image_size, image_size, generator=generator, dtype=torch.float64)
    first, second = copy.deepcopy(original).double(), copy.deepcopy(turned).double()
    with torch.no_grad():
        expected = first(images)
        difference = (second(torch.rot90(images, 2, (2, 3))) - expected).abs().max() / expected.abs().max()
        layers = zip(_project(first, images), _project(second, images, turns=2), strict=True)
        for (name, one), (_, other) in layers:
            worst = float((one - other).abs().amax(0).min())
            # Written so that NaN is a difference.
            if not worst <= _MAX_DIFFERENCE:
                raise _differs(name, image_size, worst)
    if expected.any() and not difference <= _MAX_DIFFERENCE:
        raise _differs(type(original).__name__, image_size, float(difference))


def _project(network: nn.Module, images: Tensor, *, turns: int = 0) -> list[tuple[str, Tensor]]:
    """Every layer's output in the order of the calls, each as its product with a random direction of its own.

    Changes the mode of BatchNorm, which takes the images' statistics: a layer that answers nearly the same for every
    image, as in an untrained network, would compare equal whatever is wrong.

    Args:
        network: gets the images turned, and its feature maps are turned back.
        images: shape (n, 3, height, width).
        turns: by 90 degrees.

    Returns:
        Names, and products over lengths, shape (n, readings): height and width first or last, if it is a feature map.
    """
    projected: list[tuple[str, Tensor]] = []

    def note(name: str, result: object) -> None:
        if not isinstance(result, Tensor):
            return
        generator = torch.Generator().manual_seed(len(projected))
        upright = torch.randn(result.shape[1:], generator=generator, dtype=result.dtype)
        # Some networks move channels last in between; a layer's output does not say which axes are the image's.
        axes = ((1, 2), (0, 1)) if result.dim() == 4 else ()
        directions = [torch.rot90(upright, turns, pair) for pair in axes] or [upright]
        flat = result.flatten(1)
        products = flat @ torch.stack([direction.flatten() for direction in directions], dim=1)
        projected.append((name, products / flat.norm(dim=1, keepdim=True).clamp_min(1e-300)))

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    hooks = [
        module.register_forward_hook(lambda _, __, result, name=name: note(name, result))
        for name, module in network.named_modules()
        if not list(module.children())
    ]
    try:
        network(torch.rot90(images, turns, (2, 3)))
    finally:
        for hook in hooks:
            hook.remove()
    return projected


def _differs(name: str, image_size: int, difference: float) -> InputError:
    return InputError(
        f"{name} depends on where up is: at {image_size} x {image_size} pixels it differs by {difference:.1e} once "
        f"everything is turned, allowed is {_MAX_DIFFERENCE:.0e}.",
        _REMEDY,
    )


def _not_same(name: str, shape: torch.Size, layer: str) -> InputError:
    return InputError(
        f"{name} at {shape[2]} x {shape[3]} pixels does not have TensorFlow's SAME padding after the turn: {layer}.",
        _REMEDY,
    )


def _pair(value: object) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    assert isinstance(value, tuple)
    return value[0], value[1]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
