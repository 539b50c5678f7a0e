"""A network as its operators in the order in which they run, every size as a function of what the groups keep.

With ``x = (1, kept of the first group, kept of the second, ...)`` every number of channels is ``v @ x`` for some vector
``v``: channels that belong to no group stand in its first place. So one trace prices every plan.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from edgeprune.dependencies import ChannelGroup
from edgeprune.plan.windows import Window, read_options
from edgeprune.zoo.tracing import trace_program


class LayerChannels:
    """Channels that each layer makes and reads, as vectors ``v`` (see the module).

    Args:
        network: the network with all its channels.
        groups: its census, in the order of the vectors' places.
    """

    def __init__(self, network: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        self.places = 1 + len(groups)
        self._modules = dict(network.named_modules())
        self._parts: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
        for place, group in enumerate(groups, start=1):
            for member in group.members:
                part = (place, len(member.indices), group.channels)
                self._parts.setdefault((member.layer, member.side), []).append(part)

    def made(self, layer: str) -> np.ndarray:
        """Output channels or features of a layer, entries of a BatchNorm."""
        module: Any = self._modules[layer]
        names = ("out_channels", "out_features", "num_features")
        return self._vector(layer, "out", next(getattr(module, name) for name in names if hasattr(module, name)))

    def read(self, layer: str) -> np.ndarray:
        """Input channels or features that one output reads; those of a group where a convolution has several."""
        module: Any = self._modules[layer]
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            return self.fixed(module.in_channels // module.groups)
        return self._vector(layer, "in", module.in_features if isinstance(module, nn.Linear) else module.in_channels)

    def fixed(self, count: float) -> np.ndarray:
        """A count that no group changes."""
        vector = np.zeros(self.places)
        vector[0] = count
        return vector

    def _vector(self, layer: str, side: str, total: int) -> np.ndarray:
        vector = self.fixed(total)
        for place, indices, channels in self._parts.get((layer, side), ()):
            vector[place] += indices / channels
            vector[0] -= indices
        return vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Operator:
    """One operator; the tensor that it makes goes by its position in the list.

    Attributes:
        kind: torch's name without the underscore of what works in place: ``conv2d``, ``relu``, ``input``.
        layer: the module that holds its weights or, without any, that called it.
        sources: positions of the tensors it reads, weights not among them.
        shape: of what it makes, batch first.
        elements: of what it makes, as a vector ``v``.
        window: of convolutions and pools.
        pads: of ``pad``: rows before and after, columns before and after.
        limits: of ``hardtanh``.
        weighted: it reads a layer's weights that stand in the network as they are.
        depthwise: it is a convolution that reads one channel an output.
        affine: it is a normalisation with a scale.
    """

    kind: str
    layer: str
    sources: tuple[int, ...]
    shape: tuple[int, ...]
    elements: np.ndarray
    window: Window | None = None
    pads: tuple[int, int, int, int] | None = None
    limits: tuple[float, float] | None = None
    weighted: bool = False
    depthwise: bool = False
    affine: bool = False


def trace_operators(network: nn.Module, layers: LayerChannels, *, image_size: int) -> list[Operator]:
    """Operators in the order in which they run; the image comes first, the answer last.

    Channels are followed from the layers that make them: what only looks at memory differently, what works on each
    channel alone, and sums keep their share of every group; a concatenation adds shares up. A part that is cut from a
    tensor of several groups is taken to hold them in the proportions of the whole.

    Args:
        network: not changed.
        layers: its channels.
        image_size: height and width of the input, pixels.

    Raises:
        InputError: its forward depends on the values in its tensors, so that it cannot be traced.
    """
    network = copy.deepcopy(network).eval()
    exported = trace_program(network, image_size=image_size)
    weights = {
        name: str(parameter).rpartition(".")[0]
        for name, parameter in exported.graph_signature.inputs_to_parameters.items()
    }
    modules = dict(network.named_modules())
    found: list[Operator] = []
    positions: dict[Any, int] = {}
    for node in exported.graph_module.graph.nodes:
        # Parameters and buffers are placeholders too; they live in flash.
        image = node.op == "placeholder" and not node.name.startswith(("p_", "b_", "c_"))
        shape = _shape(node)
        if shape is None or not (image or node.op == "call_function"):
            continue
        sources = tuple(dict.fromkeys(positions[each] for each in node.all_input_nodes if each in positions))
        weight = next((weights[each.name] for each in node.all_input_nodes if each.name in weights), None)
        kind = "input" if image else _kind(node)
        layer = weight if weight is not None else _caller(node)
        is_weighted = kind in ("conv2d", "linear") and weight is not None and hasattr(modules[weight], "weight")
        positions[node] = len(found)
        elements = _elements(kind, layer if is_weighted else "", shape, [found[each] for each in sources], layers)
        found.append(
            Operator(
                kind=kind,
                layer=layer,
                sources=sources,
                shape=shape,
                elements=elements,
                weighted=is_weighted,
                affine=weight is not None,
                **read_options(kind, node),
            )
        )
    return found


def _elements(
    kind: str, layer: str, shape: tuple[int, ...], sources: list[Operator], layers: LayerChannels
) -> np.ndarray:
    total = math.prod(shape)
    if layer:
        channels = shape[1] if kind == "conv2d" else shape[-1]
        return layers.made(layer) * (total / channels)
    if kind == "cat":
        parts: np.ndarray = np.sum([source.elements for source in sources], axis=0)
        # One tensor may be concatenated with itself.
        return parts * (total / sum(math.prod(source.shape) for source in sources))
    if not sources or kind in ("conv2d", "linear", "matmul", "bmm"):
        return layers.fixed(total)
    # A gate of one value a channel, or of one at all, is spread over the tensor that it gates.
    widest = max(sources, key=lambda source: (math.prod(source.shape), bool(source.elements[1:].any())))
    return widest.elements * (total / math.prod(widest.shape))


def _shape(node: Any) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return tuple(int(size) for size in value.shape)
    if isinstance(value, tuple | list) and value and all(isinstance(item, Tensor) for item in value):
        return (sum(item.numel() for item in value),)  # what a split makes, taken together
    return None


def _kind(node: Any) -> str:
    name = str(getattr(node.target, "__name__", node.target)).partition(".")[0]
    return name.rstrip("_") or name


def _caller(node: Any) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]).removeprefix("L['self'].") if stack else ""
