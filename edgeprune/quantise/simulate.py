"""Int8 in torch: the export's own scheme put into a network's graph, so that training can see what rounding does.

Weights are symmetric in [-127, 127] with one scale a row, activations affine in [-128, 127] with one scale a tensor,
biases stay as they are (int32 is fine enough); a ReLU rounds once with the layer before it, as the runtimes fuse it.

Source:
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    sections 2.1 and 3.
"""

import copy
import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from edgeprune.calibration import HARD_SWISH_FLOOR, LEAST_RANGE, ActivationStatistics, choose_range, merge, summarise
from edgeprune.quantise.graph import trace_network

# The end of a range moves by so many times the learning rate a step, relative to its size: there are few of them, and
# each sees a whole tensor.
_PACE = 25.0
_BATCH = 32

_FUSED = (nn.ReLU, nn.ReLU6)
_ACTIVATIONS = (*_FUSED, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.SiLU)
_OUT_OF_PLACE: dict[object, Callable[..., Any]] = {operator.iadd: operator.add, operator.imul: operator.mul}
_ADDITIONS = (operator.add, operator.iadd, torch.add)
# Their values are the input's, so that they need no scale of their own.
_SAME_VALUES = (nn.MaxPool2d, nn.Flatten)


class RoundActivation(nn.Module):
    """Rounds a tensor to the int8 steps of a range that can be trained.

    Attributes:
        place: see ``read_ranges``.
        floor: the range begins here at the lowest.
        ends_block: its input is a block's output, before any activation.
        stretch: trained; shape (2,), zeros leave the ends where ``set_range`` has put them.
    """

    low: Tensor
    high: Tensor

    def __init__(self, place: str, *, floor: float, ends_block: bool) -> None:
        super().__init__()
        self.place = place
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


def simulate_int8(network: nn.Module) -> fx.GraphModule:
    """A copy that rounds weights and activations as the int8 file will.

    Args:
        network: BatchNorm folded, as ``condition_network`` gives it; not changed.

    Returns:
        A graph module whose layers keep their names; ``read_back`` takes their weights out again. Its ranges are empty
        until ``set_ranges``.

    Raises:
        EdgepruneError: the network cannot be traced.
    """
    network = copy.deepcopy(network)
    graph = trace_network(network)
    modules = dict(network.named_modules())
    _compute_out_of_place(graph, modules)
    simulated = fx.GraphModule(network, graph)
    layers = {str(node.target) for node in graph.nodes if _is_layer(node, modules)}
    points = {node: _rounding(node, modules) for node in graph.nodes if _needs_rounding(node, modules)}
    for number, (node, rounding) in enumerate(points.items()):
        name = f"rounding_{number}"
        simulated.add_submodule(name, rounding)
        with graph.inserting_after(node):
            rounded = graph.call_module(name, (node,))
        node.replace_all_uses_with(rounded, delete_user_cb=lambda user, own=rounded: user is not own)
    for name in layers:
        parent, _, leaf = name.rpartition(".")
        setattr(simulated.get_submodule(parent), leaf, RoundedLayer(simulated.get_submodule(name)))  # type: ignore[arg-type]
    simulated.recompile()
    return simulated


def set_ranges(simulated: nn.Module, images: Tensor, method: str) -> None:
    """Choose the ranges of activations from what the network computes without rounding.

    Args:
        simulated: by ``simulate_int8``; changed.
        images: normalised, shape (n, 3, height, width), shuffled.
        method: one of ``calibration.METHODS``.
    """
    seen: dict[str, ActivationStatistics] = {}

    def note(name: str, values: Tensor) -> None:
        found = summarise(values.contiguous().numpy())
        seen[name] = merge(seen[name], found) if name in seen else found

    roundings = {name: each for name, each in simulated.named_modules() if isinstance(each, RoundActivation)}
    weights = {name: each for name, each in simulated.named_modules() if isinstance(each, RoundedLayer)}
    for name, rounding in roundings.items():
        rounding.observe(functools.partial(note, name))
    for layer in weights.values():
        layer.rounding = False
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            simulated(images[start : start + _BATCH])
    for layer in weights.values():
        layer.rounding = True
    for name, rounding in roundings.items():
        rounding.observe(None)
        rounding.set_range(*choose_range(seen[name], method))


def stop_rounding(simulated: nn.Module) -> None:
    """Make a simulation compute in float from now on, weights and activations."""
    for module in simulated.modules():
        if isinstance(module, RoundedLayer):
            module.rounding = False
        elif isinstance(module, RoundActivation):
            module.observe(lambda _: None)


def read_ranges(simulated: nn.Module) -> dict[str, tuple[float, float]]:
    """Low and high of every rounded tensor by place: the layer or block that computes it, ``input`` for the input.

    A hard sigmoid stands twice, as the runtimes compute it: at its layer before the division by 6, and at itself.
    """
    ranges = {}
    for module in simulated.modules():
        if isinstance(module, RoundActivation):
            low, high = (float(end.detach()) for end in module.ends())
            place, _, gate = module.place.partition("|")
            ranges[gate or place] = (low, high)
            if gate:
                ranges[place] = (6 * low, 6 * high)
    return ranges


def read_back(simulated: nn.Module, network: nn.Module) -> nn.Module:
    """A copy of the plain network with the weights that its simulation computes with, at whole steps.

    Training leaves many weights between two steps; what the exporter rounds itself may fall to the other side, and one
    step of a depthwise weight moves its channel by more than a step of its output.
    """
    result = copy.deepcopy(network)
    with torch.no_grad():
        for name, module in simulated.named_modules():
            if isinstance(module, RoundedLayer):
                own = result.get_submodule(name)
                for key, value in module.layer.state_dict().items():
                    getattr(own, key).copy_(value)
                own.weight.copy_(module.rounded_weight())  # type: ignore[operator]
    return result


def _compute_out_of_place(graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    """What was rounded must stay as it is: training compares it, and its gradient may need it."""
    for node in graph.nodes:
        node.target = _OUT_OF_PLACE.get(node.target, node.target)
        if node.op == "call_module" and hasattr(modules[str(node.target)], "inplace"):
            modules[str(node.target)].inplace = False  # type: ignore[assignment]


def _is_layer(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(modules[str(node.target)], nn.Conv2d | nn.Linear)


def _needs_rounding(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op in ("output", "get_attr"):
        return False
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, _SAME_VALUES) or node.target in (torch.flatten, functional.dropout, functional.max_pool2d):
        return False
    users = list(node.users)
    fusable = _is_layer(node, modules) or node.target in _ADDITIONS
    if fusable and len(users) == 1:
        user = users[0]
        following = modules.get(str(user.target)) if user.op == "call_module" else None
        # A hard sigmoid is a fused ReLU6 and a product by 1/6.
        if isinstance(following, (*_FUSED, nn.Hardsigmoid)) or user.target in (functional.relu, functional.relu6):
            return False
    return True


def _rounding(node: fx.Node, modules: dict[str, nn.Module]) -> RoundActivation:
    return RoundActivation(_place(node, modules), floor=_floor(node, modules), ends_block=_ends_block(node, modules))


def _ends_block(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """True for a sum, and for what a layer gives without an activation: a block's output, or half of it."""
    source = node
    if not _is_layer(node, modules) and node.target not in _ADDITIONS and node.all_input_nodes:
        source = node.all_input_nodes[0]
        if _needs_rounding(source, modules):
            return False
    if source.target in _ADDITIONS:
        return True
    return source is node and _is_layer(node, modules) and not any(_is_activation(user, modules) for user in node.users)


def _is_activation(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    return isinstance(module, _ACTIVATIONS) or node.target in (functional.relu, functional.relu6)


def _place(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """Where the runtimes compute a tensor; ``layer|gate`` for a hard sigmoid that is fused with its layer."""
    if node.op == "placeholder":
        return "input"
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    fused = isinstance(module, (*_FUSED, nn.Hardsigmoid)) or node.target in (functional.relu, functional.relu6)
    before = node.all_input_nodes[0]
    if fused and not _needs_rounding(before, modules):
        own = _place(before, modules)
        return f"{own}|{node.target}" if isinstance(module, nn.Hardsigmoid) else own
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    return next(reversed(stack), "")


def _floor(node: fx.Node, modules: dict[str, nn.Module]) -> float:
    swishes = [user.op == "call_module" and isinstance(modules[str(user.target)], nn.Hardswish) for user in node.users]
    return HARD_SWISH_FLOOR if swishes and all(swishes) else float("-inf")
