"""Channels that can only go together, read from torch-pruning's dependency graph.

The one place that knows torch-pruning: planning asks it for groups, surgery asks it to remove them.
"""

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import nn

from edgeprune.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelGroup:
    """Channels of several layers that can only be removed together.

    Attributes:
        layer: name of the convolution that makes the channels; it names the group.
        channels: how many there are.
        followers: layers that lose the same channels of their output: BatchNorms, the depthwise convolution,
            squeeze-excite's fc2.
        consumers: layers that lose input channels: the projection, squeeze-excite's fc1.
    """

    layer: str
    channels: int
    followers: tuple[str, ...]
    consumers: tuple[str, ...]


class DependencyGraph:
    """torch-pruning's graph over a private copy of a network, asked by module name.

    Args:
        network: copied, not changed.
        image_size: height and width of the input that is traced, pixels.

    Raises:
        InputError: torch-pruning cannot trace the network.

    Attributes:
        network: the private copy, which ``remove`` prunes.
    """

    def __init__(self, network: nn.Module, *, image_size: int) -> None:
        self.network = copy.deepcopy(network).eval()
        self._modules = dict(self.network.named_modules())
        self._names = {module: name for name, module in self._modules.items()}
        example = torch.zeros(1, 3, image_size, image_size)
        with warnings.catch_warnings(), torch.enable_grad():
            # It warns of parameters that no module owns (ConvNeXt's layer scale), which no group here touches.
            warnings.simplefilter("ignore")
            for parameter in self.network.parameters():
                parameter.requires_grad_(True)
            try:
                self._graph: Any = torch_pruning.DependencyGraph().build_dependency(self.network, example)
            except Exception as error:
                # Whatever its arithmetic runs into: a division by zero at ShuffleNet's channel shuffle, for one.
                raise InputError(
                    f"The channels of this network cannot be followed ({type(error).__name__}: {error}).",
                    "a network of another family, such as mobilenet_v3_small",
                ) from None

    def inner_group(self, layer: str) -> ChannelGroup | None:
        """The group that a convolution's output channels form, or None when they leave their block."""
        root = self._modules[layer]
        assert isinstance(root, nn.Conv2d)
        if root not in self._graph.module2node or not self._graph.module2node[root].inputs or root.groups > 1:
            return None  # never called, the stem, or a depthwise convolution, which belongs to the group of its input
        members = [dependency for dependency, _ in self._members(layer, list(range(root.out_channels)))]
        if any(self._leaves_block(dependency.target) for dependency in members):
            return None
        followers: list[str] = []
        consumers: list[str] = []
        spatial = False
        for dependency in members:
            name = self._names.get(dependency.target.module)
            if name is None or name == layer:
                continue
            module = self._modules[name]
            convolution = isinstance(module, nn.Conv2d)
            spatial = spatial or (convolution and max(module.kernel_size) > 1)
            reads = convolution and dependency.handler.__name__ == "prune_in_channels" and not _is_depthwise(module)
            (consumers if reads else followers).append(name)
        if not spatial or not consumers or set(consumers) & set(followers):
            return None  # a convolution that is called twice may read its own channels
        return ChannelGroup(
            layer=layer,
            channels=root.out_channels,
            followers=tuple(dict.fromkeys(followers)),
            consumers=tuple(dict.fromkeys(consumers)),
        )

    def remove(self, layer: str, channels: list[int]) -> None:
        """Remove output channels of a convolution, and what depends on them, from the private copy.

        Raises:
            ValueError: torch-pruning refuses, because nothing would be left of a layer.
        """
        group = self._members(layer, channels)
        if not self._graph.check_pruning_group(group):
            raise ValueError(f"{layer}: removing {len(channels)} channels would leave a layer without any")
        group.prune()

    def check(self, image_size: int) -> None:
        """Run the private copy once.

        Raises:
            InputError: its code holds on to channel counts that are no longer true.
        """
        try:
            with torch.no_grad():
                self.network(torch.zeros(1, 3, image_size, image_size))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"The network does not run with fewer channels ({reason}).",
                "read channel counts from tensors in `forward`, or name those modules in prune.protect",
            ) from None

    def _members(self, layer: str, channels: list[int]) -> Any:
        return self._graph.get_pruning_group(self._modules[layer], torch_pruning.prune_conv_out_channels, channels)

    def _leaves_block(self, node: Any) -> bool:
        module = node.module
        if isinstance(module, nn.Parameter):
            return True  # a learned scale outside any layer, which a checkpoint could not rebuild
        if module not in self._names:
            # A product is squeeze-excite's gate and goes along; a sum is a residual connection, whose partners must
            # agree with it.
            return any(part in str(node.name) for part in ("AddBackward", "SubBackward", "_ConcatOp", "_SplitOp"))
        if isinstance(module, nn.Conv2d):
            # The stem comes into it where squeeze-excite gates its channels, in a block without expansion. A grouped
            # convolution ties channels across its groups.
            return not node.inputs or (module.groups > 1 and not _is_depthwise(module))
        # BatchNorm goes along, and so does what holds no numbers; a checkpoint can rebuild nothing else.
        return not isinstance(module, nn.BatchNorm2d) and bool(module.state_dict())


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels
