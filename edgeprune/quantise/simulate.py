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

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from edgeprune.calibration import ActivationStatistics, choose_range, merge, summarise
from edgeprune.quantise.graph import trace_network

# A hard-swish gives zero for everything up to here, so steps spent below are wasted.
_HARD_SWISH_FLOOR = -3.0
# A tensor that is constant on all images still needs a step to divide by.
_LEAST_RANGE = 1e-3

_BATCH = 32

_FUSED = (nn.ReLU, nn.ReLU6)
# Their values are the input's, so that they need no scale of their own.
_SAME_VALUES = (nn.MaxPool2d, nn.Flatten)


class RoundActivation(nn.Module):
    """Rounds a tensor to int8 steps of a fixed range; the gradient passes straight through inside and stops outside."""

    low: Tensor
    high: Tensor

    def __init__(self, place: str, *, floor: float) -> None:
        super().__init__()
        self.place = place
        self.floor = floor
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self._observer: Callable[[Tensor], None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``; the first dimension is images."""
        if self._observer is not None:
            self._observer(x)
            return x
        scale = (self.high - self.low) / 255
        zero_point = (-128 - self.low / scale).round().clamp(-128, 127).int()
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, -128, 127)

    def set_range(self, low: float, high: float) -> None:
        """Round to the 256 steps between two bounds, which hold zero."""
        low = max(low, self.floor)
        self.low.fill_(low)
        self.high.fill_(max(high, low + _LEAST_RANGE))


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
        weight = self.layer.weight
        scale = weight.detach().flatten(1).abs().amax(1).clamp_min(1e-12) / 127
        zero_points = torch.zeros(len(scale), dtype=torch.int32)
        rounded = torch.fake_quantize_per_channel_affine(weight, scale, zero_points, 0, -127, 127)
        return torch.func.functional_call(self.layer, {"weight": rounded}, (x,))  # type: ignore[no-any-return]


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
    simulated = fx.GraphModule(network, graph)
    layers = {str(node.target) for node in graph.nodes if _is_layer(node, modules)}
    points = [node for node in graph.nodes if _needs_rounding(node, modules)]
    for number, node in enumerate(points):
        name = f"rounding_{number}"
        simulated.add_submodule(name, RoundActivation(_place(node, modules), floor=_floor(node, modules)))
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
        rounding._observer = functools.partial(note, name)
    for layer in weights.values():
        layer.rounding = False
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            simulated(images[start : start + _BATCH])
    for layer in weights.values():
        layer.rounding = True
    for name, rounding in roundings.items():
        rounding._observer = None
        rounding.set_range(*choose_range(seen[name], method))


def read_ranges(simulated: nn.Module) -> dict[str, tuple[float, float]]:
    """Low and high of every rounded tensor by place: the layer or block that computes it, ``input`` for the input.

    A hard sigmoid stands twice, as the runtimes compute it: at its layer before the division by 6, and at itself.
    """
    ranges = {}
    for module in simulated.modules():
        if isinstance(module, RoundActivation):
            low, high = float(module.low), float(module.high)
            place, _, gate = module.place.partition("|")
            ranges[gate or place] = (low, high)
            if gate:
                ranges[place] = (6 * low, 6 * high)
    return ranges


def read_back(simulated: nn.Module, network: nn.Module) -> nn.Module:
    """A copy of the plain network with the weights of its simulation."""
    result = copy.deepcopy(network)
    with torch.no_grad():
        for name, module in simulated.named_modules():
            if isinstance(module, RoundedLayer):
                own = result.get_submodule(name)
                for key, value in module.layer.state_dict().items():
                    getattr(own, key).copy_(value)
    return result


def _is_layer(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(modules[str(node.target)], nn.Conv2d | nn.Linear)


def _needs_rounding(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op in ("output", "get_attr"):
        return False
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, _SAME_VALUES) or node.target in (torch.flatten, functional.dropout, functional.max_pool2d):
        return False
    users = list(node.users)
    fusable = _is_layer(node, modules) or node.target in (operator.add, operator.iadd, torch.add)
    if fusable and len(users) == 1:
        user = users[0]
        following = modules.get(str(user.target)) if user.op == "call_module" else None
        # A hard sigmoid is a fused ReLU6 and a product by 1/6.
        if isinstance(following, (*_FUSED, nn.Hardsigmoid)) or user.target in (functional.relu, functional.relu6):
            return False
    return True


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
    return _HARD_SWISH_FLOOR if swishes and all(swishes) else float("-inf")
