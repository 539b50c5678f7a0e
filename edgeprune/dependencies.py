"""Channels that can only go together, read from torch-pruning's dependency graph.

The one place that knows torch-pruning: it tells which layers share which channels; cutting them is our own.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch_pruning
from torch import nn
from torch_pruning.ops import OPTYPE

from edgeprune.errors import InputError
from edgeprune.zoo import copy_structure

Side = Literal["out", "in"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMember:
    """One layer's part in a group.

    Attributes:
        layer: module name of a convolution, linear layer or BatchNorm.
        side: ``out`` where it loses channels that it makes (a BatchNorm and a depthwise convolution too), ``in`` where
            it loses channels that it reads.
        indices: channels of that layer; input features of a linear layer behind a flattened map.
        roots: parallel to ``indices``: the channel of the group that each belongs to.
    """

    layer: str
    side: Side
    indices: tuple[int, ...]
    roots: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelGroup:
    """Channels of several layers that can only be removed together.

    Attributes:
        layer: name of the first layer that makes the channels; it names the group.
        channels: how many there are.
        unit: channels that only go in runs of this many: the width of a grouped convolution's groups, else 1.
        members: every layer that has a part in them, the layer itself first.
    """

    layer: str
    channels: int
    unit: int
    members: tuple[GroupMember, ...]

    @property
    def followers(self) -> tuple[str, ...]:
        """Other layers that lose channels of their output: BatchNorms, depthwise ones, partners of a residual sum."""
        return tuple(member.layer for member in self.members[1:] if member.side == "out")

    @property
    def consumers(self) -> tuple[str, ...]:
        """Layers that lose channels of their input."""
        return tuple(member.layer for member in self.members if member.side == "in")


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupling:
    """A group as the graph has it, prunable or not.

    Attributes:
        group: its channels and members.
        obstacle: why its channels cannot go, as a clause about them; empty where they can.
        inner: they stay inside their block: no sum, no concatenation, no linear layer, and something made them of
            channels, not of the image.
        spatial: another convolution with a kernel above 1 works on them.
    """

    group: ChannelGroup
    obstacle: str
    inner: bool
    spatial: bool


@dataclass(slots=True)
class _Finding:
    """What is collected while the graph is walked from one layer."""

    unit: int = 1
    obstacle: str = ""
    inner: bool = True
    parts: dict[tuple[str, Side], dict[int, int]] = field(default_factory=dict)


class DependencyGraph:
    """torch-pruning's graph over a private copy of a network, asked by module name.

    Args:
        network: not changed; its weights are shared, not copied.
        image_size: height and width of its input, pixels.

    Raises:
        InputError: torch-pruning cannot trace the network.

    Attributes:
        network: the private copy, in evaluation mode.
        pixels: height and width of the input that was traced: fewer than ``image_size`` where the network takes them.
    """

    def __init__(self, network: nn.Module, *, image_size: int) -> None:
        self.network = copy_structure(network)
        self.pixels = _least_pixels(self.network, image_size)
        self._modules = dict(self.network.named_modules())
        self._names: dict[Any, str] = {module: name for name, module in self._modules.items()}
        self._parameters = {id(parameter): name for name, parameter in self.network.named_parameters()}
        self._graph: Any = torch_pruning.DependencyGraph()
        example = torch.zeros(1, 3, self.pixels, self.pixels)
        with warnings.catch_warnings(), torch.enable_grad():
            # It warns of parameters that no module owns (ConvNeXt's layer scale), whose channels are left alone here.
            warnings.simplefilter("ignore")
            try:
                self._graph.build_dependency(self.network, example)
            except Exception as error:
                # Whatever its arithmetic runs into; most often there is a reshaping behind it that can be named.
                self._require_plain_maps()
                raise InputError(
                    f"The channels of this network cannot be followed ({type(error).__name__}: {error}).",
                    "a network of another family, such as mobilenet_v3_small",
                ) from None
        self._require_plain_maps()

    def couplings(self) -> Iterator[Coupling]:
        """Every set of channels that convolutions and linear layers make, each once, in network order."""
        claimed: set[str] = set()
        for name, module in self._modules.items():
            if name in claimed or module not in self._graph.module2node or not _makes_channels(module):
                continue
            coupling = self._follow(name)
            members = coupling.group.members
            claimed.update(member.layer for member in members if member.side == "out")
            yield coupling

    def _require_plain_maps(self) -> None:
        # torch-pruning follows channels through maps and their flattening. Through windows of maps (Swin, MaxViT) its
        # indices multiply at every turn, and a walk may never come to an end; at ShuffleNet's shuffle it divides by 0.
        # The graph stands from the answer back to the image.
        for node in reversed(getattr(self._graph, "module2node", {}).values()):
            dimensions = len(getattr(node.grad_fn, "_saved_self_sym_sizes", ()))
            if dimensions > _MAP_DIMENSIONS and node.type == OPTYPE.RESHAPE:
                raise InputError(
                    f"The channels of this network cannot be followed: behind {self._layer_before(node)} a tensor of "
                    f"{dimensions} dimensions is reshaped, as windows of a map or shuffled channels are.",
                    "a network of another family, such as mobilenet_v3_small",
                )

    def _layer_before(self, node: Any) -> str:
        before = [node]
        for each in before:
            if each.module in self._names:
                return self._names[each.module]
            before += [other for other in each.inputs if other not in before]
        return "the image"

    def _follow(self, layer: str) -> Coupling:
        found = _Finding()
        channels = _width(self._modules[layer])
        pending, asked = [(layer, "out")], set()
        while pending:
            name, side = pending.pop()
            if (name, side) in asked:
                continue
            asked.add((name, side))
            for item in self._members(name, side):
                grouped = self._collect(found, item)
                # A grouped convolution ties what it makes to what it reads, which the graph does not know.
                pending += [(grouped, "out"), (grouped, "in")] if grouped else []
        members = []
        for (name, side), roots in found.parts.items():
            if side == "in" and _is_grouped(self._modules[name]):
                continue  # its outputs stand for both
            indices = tuple(sorted(roots))
            members.append(
                GroupMember(layer=name, side=side, indices=indices, roots=tuple(roots[index] for index in indices))
            )
        members.sort(key=lambda member: (member.layer, member.side) != (layer, "out"))  # a stable sort: the rest stays
        group = ChannelGroup(layer=layer, channels=channels, unit=found.unit, members=tuple(members))
        obstacle = found.obstacle
        if not obstacle and not group.consumers:
            obstacle = "no layer reads them: they are what the network answers"
        if not obstacle and channels <= found.unit:
            obstacle = "there is only one of them"
        return Coupling(
            group=group,
            obstacle=obstacle,
            inner=found.inner and bool(self._graph.module2node[self._modules[layer]].inputs),
            spatial=any(
                isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
                for module in (self._modules[member.layer] for member in group.members[1:])
            ),
        )

    def _collect(self, found: _Finding, item: Any) -> str | None:
        """Take one item of a group in; returns the name of a grouped convolution, whose other side is to be asked."""
        module, name = item.dep.target.module, self._names.get(item.dep.target.module)
        if isinstance(module, nn.Parameter):
            found.obstacle = f"{self._parameters.get(id(module), 'a parameter')} scales them outside any layer"
        elif name is None:
            # A product is squeeze-excite's gate and goes along; a sum is a residual connection, whose partners must
            # agree with it.
            node = item.dep.target
            found.inner &= node.type not in _JOINTS and not any(part in str(node.name) for part in _SUMS)
        elif isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d):
            found.inner &= not isinstance(module, nn.Linear)
            found.inner &= not isinstance(module, nn.Conv2d) or bool(item.dep.target.inputs)
            self._add(found, name, _side(module, item.dep.handler), item)
            if _is_grouped(module):
                return self._bind(found, name)
        elif module.state_dict():
            found.obstacle = f"{name} ({type(module).__name__}) is no layer that can lose channels one by one"
        return None

    def _add(self, found: _Finding, name: str, side: Side, item: Any) -> None:
        roots = found.parts.setdefault((name, side), {})
        for index, root in zip(item.idxs, item.root_idxs, strict=True):
            if roots.setdefault(int(index), int(root)) != int(root):
                found.obstacle = f"{name} mixes one with another"

    def _bind(self, found: _Finding, name: str) -> str | None:
        """Let a grouped convolution's groups go as wholes; returns its name when that is possible."""
        module = self._modules[name]
        assert isinstance(module, nn.Conv2d)
        straight = all(
            index == root for side in ("out", "in") for index, root in found.parts.get((name, side), {}).items()
        )
        if module.in_channels != module.out_channels or not straight:
            found.obstacle = f"{name} is a convolution in groups that does not keep their number or order"
            return None
        found.unit = math.lcm(found.unit, module.in_channels // module.groups)
        return name

    def _members(self, layer: str, side: str) -> Any:
        module = self._modules[layer]
        pruner = self._graph.get_pruner_of_module(module)
        function, count = pruner.prune_out_channels, _width(module)
        if side == "in":
            assert isinstance(module, nn.Conv2d)
            function, count = pruner.prune_in_channels, module.in_channels
        return self._graph.get_pruning_group(module, function, list(range(count)))


# Images, channels, height, width.
_MAP_DIMENSIONS = 4
# Which channels belong together does not depend on how many pixels there are, and these are seen in no time.
_FEW_PIXELS = 32

# What joins or divides channels of several layers; torch-pruning tells sums from products by autograd's names only.
_JOINTS = (OPTYPE.CONCAT, OPTYPE.SPLIT, OPTYPE.SLICE, OPTYPE.OUTPUT)
_SUMS = ("AddBackward", "SubBackward")


def _least_pixels(network: nn.Module, image_size: int) -> int:
    if image_size <= _FEW_PIXELS:
        return image_size
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, _FEW_PIXELS, _FEW_PIXELS))
    except (RuntimeError, AssertionError, ValueError):
        return image_size  # a flattened map that a linear layer counts on, or a map that pooling leaves nothing of
    return _FEW_PIXELS


def _makes_channels(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear) and not _is_depthwise(module)


def _width(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return module.out_features
    assert isinstance(module, nn.Conv2d)
    return module.out_channels


def _side(module: nn.Module, handler: Any) -> Side:
    reads = isinstance(module, nn.Conv2d | nn.Linear) and handler.__name__ == "prune_in_channels"
    return "in" if reads and not _is_depthwise(module) else "out"


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels


def _is_grouped(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups > 1 and not _is_depthwise(module)
