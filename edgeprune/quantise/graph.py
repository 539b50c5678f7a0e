"""Which channels of a network may be rescaled together: a walk over its traced graph.

Scaling a channel by ``1 / s`` where it is made and by ``s`` where it is read changes nothing, as long as everything in
between is positively homogeneous (ReLU, averages, sums; not a hard-swish). ``find_scale_groups`` finds who makes and
who reads each such set of channels.
"""

import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from edgeprune.errors import EdgepruneError

# What does nothing in evaluation mode.
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d)
_KEEPING_MODULES = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.AdaptiveAvgPool2d,
    nn.AvgPool2d,
    nn.MaxPool2d,
)
_CURVED = (nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.SiLU, nn.ReLU6)
_KEEPING_FUNCTIONS: frozenset[Callable[..., object]] = frozenset(
    {functional.relu, torch.relu, functional.dropout, functional.adaptive_avg_pool2d, functional.avg_pool2d}
)
_ADDITIONS: frozenset[Callable[..., object]] = frozenset({operator.add, operator.iadd, torch.add})
_PRODUCTS: frozenset[Callable[..., object]] = frozenset({operator.mul, operator.imul, torch.mul})


class _Tracer(fx.Tracer):
    """Stops at layers with weights, our own kinds of convolution among them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | nn.Linear) or super().is_leaf_module(m, module_qualified_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleGroup:
    """Channels that are scaled together, index by index.

    Attributes:
        producers: names of layers whose output rows they are.
        consumers: names of layers that read them as input columns; a depthwise convolution reads one column a row.
        low, high: of each channel, over the images and every tensor of the group, shape (channels,).
        plain: nothing but ReLU lies between producers and consumers, at one producer.
        hard_swish: the producer feeds a hard-swish, whose output these ranges are; it can be rescaled only where it is
            linear.
    """

    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    low: Tensor
    high: Tensor
    plain: bool
    hard_swish: bool


@dataclass(slots=True)
class _Set:
    frozen: bool = False
    plain: bool = True
    hard_swish: bool = False
    producers: list[str] = field(default_factory=list)
    consumers: list[str] = field(default_factory=list)
    low: Tensor | None = None
    high: Tensor | None = None


def trace_network(network: nn.Module) -> fx.Graph:
    """The network as a graph of layers, without the identities that folding and evaluation mode leave.

    Raises:
        EdgepruneError: its own code depends on values, so that it cannot be traced.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception as error:  # fx raises whatever the network's own code raises on a proxy
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EdgepruneError(
            f"{type(network).__name__} cannot be traced for int8: {reason}",
            "leave tflite_int8 out of export.formats",
        ) from error
    for node in list(graph.nodes):
        if node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), _NOTHING):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)
    return graph


def is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """True for what runtimes compute together with the layer or sum before it."""
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    return isinstance(module, nn.ReLU | nn.ReLU6) or node.target in (functional.relu, functional.relu6)


def is_depthwise(layer: nn.Module) -> bool:
    """True for a convolution that reads one channel a row."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1


def find_scale_groups(network: nn.Module, images: Tensor) -> list[ScaleGroup]:
    """Sets of channels that may be rescaled, with their ranges.

    Args:
        network: in evaluation mode, BatchNorm folded.
        images: normalised, shape (n, 3, height, width).

    Raises:
        EdgepruneError: as ``trace_network``.
    """
    walk = _Walk(fx.GraphModule(network, trace_network(network)))
    with torch.inference_mode():
        walk.run(images)
    return walk.groups()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelReach:
    """Names of the layers that make (``rows``) and read (``columns``) the same channels, index by index."""

    rows: frozenset[str]
    columns: frozenset[str]


def follow_channels(start: fx.Node, modules: Mapping[str, nn.Module]) -> ChannelReach | None:
    """Everything that has to change when the channels of a tensor change places.

    Args:
        start: the tensor; nodes of its graph have shapes, by ``torch.fx.passes.shape_prop``.
        modules: of the graph, by name.

    Returns:
        None where the channels reach something that tells one from another (the network's output, a concatenation), or
        a layer that is called more than once.
    """
    rows, columns = set(), set()
    calls = Counter(str(node.target) for node in start.graph.nodes if node.op == "call_module")
    carrying: set[fx.Node] = set()
    channels = start.meta["tensor_meta"].shape[1]
    waiting = [start]
    while waiting:
        node = waiting.pop()
        # A gate of one channel is the same for all of them.
        if node in carrying or node.meta["tensor_meta"].shape[1] == 1 != channels:
            continue
        carrying.add(node)
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d | nn.Linear):
            rows.add(str(node.target))
            waiting += node.all_input_nodes if is_depthwise(module) else []
        elif _keeps_places(node, module):
            waiting += node.all_input_nodes
        else:
            return None
        for user in node.users:
            reader = modules.get(str(user.target)) if user.op == "call_module" else None
            if isinstance(reader, nn.Conv2d | nn.Linear) and not is_depthwise(reader):
                if isinstance(reader, nn.Conv2d) and reader.groups > 1:
                    return None
                columns.add(str(user.target))
            else:
                waiting.append(user)
    if any(calls[name] > 1 for name in rows | columns):
        return None
    return ChannelReach(rows=frozenset(rows), columns=frozenset(columns))


def _keeps_places(node: fx.Node, module: nn.Module | None) -> bool:
    functions = _KEEPING_FUNCTIONS | _ADDITIONS | _PRODUCTS
    return isinstance(module, (*_KEEPING_MODULES, *_CURVED)) or node.target in functions


class _Walk(fx.Interpreter):
    """Runs the graph once, node by node, and keeps for every node the set of channels that it carries."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self._sets: dict[fx.Node, _Set] = {}
        self._uses: dict[str, int] = {}
        for node in module.graph.nodes:
            if node.op == "call_module":
                self._uses[str(node.target)] = self._uses.get(str(node.target), 0) + 1

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        channels = self._assign(n, result)
        self._sets[n] = channels
        if isinstance(result, Tensor) and result.dim() >= 2 and not channels.frozen:
            axes = [axis for axis in range(result.dim()) if axis != 1]
            low, high = result.amin(axes), result.amax(axes)
            if channels.low is not None and channels.high is not None and channels.low.shape == low.shape:
                low, high = torch.minimum(low, channels.low), torch.maximum(high, channels.high)
            channels.low, channels.high = low, high
        return result

    def groups(self) -> list[ScaleGroup]:
        unique = {id(each): each for each in self._sets.values()}.values()
        return [
            ScaleGroup(
                producers=tuple(each.producers),
                consumers=tuple(each.consumers),
                low=each.low,
                high=each.high,
                plain=each.plain and len(each.producers) == 1,
                hard_swish=each.hard_swish,
            )
            for each in unique
            if not each.frozen and each.producers and each.consumers and each.low is not None and each.high is not None
        ]

    def _assign(self, node: fx.Node, result: object) -> _Set:
        inputs = [self._sets[each] for each in node.all_input_nodes]
        carried: _Set | None = None
        if node.op == "call_module":
            carried = self._through_module(node, inputs)
        elif node.op == "call_function":
            carried = self._through_function(node, inputs)
        elif node.op == "call_method" and node.target == "mean" and isinstance(result, Tensor):
            inputs[0].plain = False
            carried = inputs[0]
        if carried is None:
            for each in inputs:
                each.frozen = True
            carried = _Set(frozen=True)
        return carried

    def _through_module(self, node: fx.Node, inputs: list[_Set]) -> _Set | None:
        module = self.fetch_attr(str(node.target))
        carried: _Set | None = None
        if isinstance(module, nn.Conv2d | nn.Linear):
            carried = self._through_layer(str(node.target), module, inputs[0])
        elif isinstance(module, _KEEPING_MODULES) or (isinstance(module, nn.Flatten) and _is_flat(node, self)):
            inputs[0].plain &= isinstance(module, nn.ReLU | nn.Flatten)
            carried = inputs[0]
        elif isinstance(module, nn.Hardswish) and len(node.all_input_nodes[0].users) == 1 and inputs[0].plain:
            carried = _Set(producers=inputs[0].producers, hard_swish=True, plain=False)
        return carried

    def _through_function(self, node: fx.Node, inputs: list[_Set]) -> _Set | None:
        carried: _Set | None = None
        if node.target in _ADDITIONS and len(inputs) == 2:
            carried = self._merge(inputs[0], inputs[1])
        elif node.target in _PRODUCTS and len(inputs) == 2 and inputs[0].frozen != inputs[1].frozen:
            # A gate between 0 and 1 has a range of its own; the other factor carries the scale through.
            carried = inputs[0] if inputs[1].frozen else inputs[1]
            carried.plain = False
        elif node.target in _KEEPING_FUNCTIONS or (node.target is torch.flatten and _is_flat(node, self)):
            inputs[0].plain &= node.target in (functional.relu, torch.relu, torch.flatten)
            carried = inputs[0]
        return carried

    def _through_layer(self, name: str, layer: nn.Conv2d | nn.Linear, source: _Set) -> _Set:
        grouped = isinstance(layer, nn.Conv2d) and layer.groups > 1 and not is_depthwise(layer)
        fixed = grouped or self._uses[name] > 1
        source.frozen |= fixed
        source.consumers.append(name)
        return _Set(frozen=fixed, producers=[name])

    def _merge(self, one: _Set, other: _Set) -> _Set:
        if one is other:
            return one
        one.frozen |= other.frozen or one.hard_swish or other.hard_swish
        one.plain = False
        one.producers += other.producers
        one.consumers += other.consumers
        if one.low is not None and other.low is not None and one.high is not None and other.high is not None:
            if one.low.shape == other.low.shape:
                one.low, one.high = torch.minimum(one.low, other.low), torch.maximum(one.high, other.high)
            else:
                one.frozen = True
        for node, each in self._sets.items():
            if each is other:
                self._sets[node] = one
        return one


def _is_flat(node: fx.Node, walk: _Walk) -> bool:
    """True where flattening only drops axes of one element, so that channels stay channels."""
    value = walk.env.get(node.all_input_nodes[0])
    return isinstance(value, Tensor) and value.numel() == value.shape[0] * value.shape[1]
