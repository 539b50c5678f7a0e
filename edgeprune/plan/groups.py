"""The census: the prunable channel groups of a network."""

from typing import Literal

from torch import nn

from edgeprune.dependencies import ChannelGroup, DependencyGraph
from edgeprune.errors import InputError


def find_groups(
    network: nn.Module, *, image_size: int, scope: Literal["expand"], protect: tuple[str, ...]
) -> tuple[ChannelGroup, ...]:
    """The prunable channel groups of a network, in network order.

    Scope ``expand`` is the inner channels of a block: those of every convolution but the stem that a spatial
    convolution (kernel above 1, depthwise or not) reads, and that reach neither a residual sum, a concatenation nor a
    linear layer. In inverted residual networks these are the expansion convolutions; squeeze-excite follows along. In
    ResNets they are the convolutions before the last 3x3 of a block.

    Args:
        network: not changed.
        image_size: height and width of its input, pixels.
        scope: see above.
        protect: module names; channels made inside them are left alone.

    Raises:
        InputError: a name in ``protect`` is no module, or nothing is left to prune.

    Source:
        Fang et al. 2023, "DepGraph: Towards Any Structural Pruning" (the graph); Sandler et al. 2018, "MobileNetV2"
        (expansion).
    """
    modules = dict(network.named_modules())
    for name in protect:
        if name not in modules:
            raise InputError(
                f"prune.protect names {name!r}, which is no module of this network.",
                f"a module's name, for example {next(n for n, m in modules.items() if isinstance(m, nn.Conv2d))}",
            )
    groups: list[ChannelGroup] = []
    claimed: set[str] = set()  # squeeze-excite's fc2 makes the channels of the expansion that it gates
    graph = DependencyGraph(network, image_size=image_size)
    for layer, module in modules.items():
        guarded = any(layer == name or layer.startswith(f"{name}.") for name in protect)
        if guarded or layer in claimed or not isinstance(module, nn.Conv2d):
            continue
        group = graph.inner_group(layer)
        if group is not None:
            groups.append(group)
            claimed.update(group.followers)
    if not groups:
        raise InputError(
            f"Scope {scope!r} finds no prunable channels in this network (protected: {', '.join(protect) or 'none'}).",
            "protect fewer modules; networks without blocks of convolutions cannot be pruned this way",
        )
    return tuple(groups)
