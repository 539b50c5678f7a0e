"""Int8 in torch: the export's own scheme put into a network's graph, so that training can see what rounding does.

Biases stay as they are (int32 is fine enough); a ReLU rounds once with the layer before it, as the runtimes fuse it.
"""

import copy
import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from edgeprune.calibration import HARD_SWISH_FLOOR, ActivationStatistics, choose_range, merge, summarise
from edgeprune.quantise.graph import is_relu, trace_network
from edgeprune.quantise.rounding import RoundActivation, RoundedLayer

_BATCH = 32

_ACTIVATIONS = (nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.SiLU)
_OUT_OF_PLACE: dict[object, Callable[..., Any]] = {operator.iadd: operator.add, operator.imul: operator.mul}
_CONCATENATIONS = (torch.cat, torch.concat)
_ADDITIONS = (operator.add, operator.iadd, torch.add)
# Their values are the input's, so that they need no scale of their own.
_SAME_VALUES = (nn.MaxPool2d, nn.Flatten)


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
        simulated.set_submodule(name, RoundedLayer(simulated.get_submodule(name)))  # type: ignore[arg-type]
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

    A hard sigmoid stands twice, as the runtimes compute it: at its layer before the division by 6, and at itself. What
    is only concatenated has the range of the whole.
    """
    ranges: dict[str, tuple[float, float]] = {}
    for module in simulated.modules():
        if isinstance(module, RoundActivation):
            low, high = (float(end.detach()) for end in module.ends())
            ranges |= {
                place: (factor * low, factor * high) for place, factor in {module.place: 1, **module.also}.items()
            }
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
    return not _is_joined(node) and not _is_fused(node, modules)


def _is_fused(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a runtime computes it together with the activation that alone reads it."""
    if len(node.users) != 1 or not (_is_layer(node, modules) or node.target in _ADDITIONS):
        return False
    user = next(iter(node.users))
    following = modules.get(str(user.target)) if user.op == "call_module" else None
    # A hard sigmoid is a fused ReLU6 and a product by 1/6.
    return isinstance(following, nn.Hardsigmoid) or is_relu(user, modules)


def _is_joined(node: fx.Node) -> bool:
    """Whether a concatenation is all that reads a tensor: it is rounded there, at the scale of the whole."""
    return len(node.users) == 1 and next(iter(node.users)).target in _CONCATENATIONS


def _rounding(node: fx.Node, modules: dict[str, nn.Module]) -> RoundActivation:
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    also: dict[str, float] = {}
    if isinstance(module, nn.Hardsigmoid) and _is_fused(node.all_input_nodes[0], modules):
        also = {_place(node.all_input_nodes[0], modules): 6.0}
    elif node.target in _CONCATENATIONS:
        also = {_place(each, modules): 1.0 for each in node.all_input_nodes if _is_joined(each)}
    return RoundActivation(
        _place(node, modules), also=also, floor=_floor(node, modules), ends_block=_ends_block(node, modules)
    )


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
    return isinstance(module, _ACTIVATIONS) or is_relu(node, modules)


def _place(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """Where the runtimes compute a tensor."""
    if node.op == "placeholder":
        return "input"
    if is_relu(node, modules) and _is_fused(node.all_input_nodes[0], modules):
        return _place(node.all_input_nodes[0], modules)
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    return next(reversed(stack), "")


def _floor(node: fx.Node, modules: dict[str, nn.Module]) -> float:
    swishes = [user.op == "call_module" and isinstance(modules[str(user.target)], nn.Hardswish) for user in node.users]
    return HARD_SWISH_FLOOR if swishes and all(swishes) else float("-inf")
