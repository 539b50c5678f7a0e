"""The census: the prunable channel groups of a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from edgeprune.dependencies import ChannelGroup, Coupling, DependencyGraph
from edgeprune.errors import InputError
from edgeprune.masking import cut_groups, masked
from edgeprune.zoo import copy_structure, cut_in_place

# A cut network may differ from the masked one by this share of what the cut itself changes; a channel taken for another
# one changes as much as the cut does. Where that is too little to be seen, float64 agrees to this share of the answer.
_SHARE_OF_EFFECT = 1e-4
_SHARE_OF_ANSWER = 1e-10
_SEEN_IN_FLOAT32 = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """What of a network can be pruned.

    Attributes:
        groups: in network order.
        left_alone: layers that make channels which stay, each with the reason as a clause about those channels.
    """

    groups: tuple[ChannelGroup, ...]
    left_alone: dict[str, str]


def find_groups(
    network: nn.Module, *, image_size: int, scope: Literal["expand", "all"], protect: tuple[str, ...]
) -> tuple[ChannelGroup, ...]:
    """The prunable channel groups of a network, in network order; see ``take_census``.

    Raises:
        InputError: as ``take_census``.
    """
    return take_census(network, image_size=image_size, scope=scope, protect=protect).groups


def take_census(
    network: nn.Module, *, image_size: int, scope: Literal["expand", "all"], protect: tuple[str, ...]
) -> Census:
    """The prunable channel groups of a network, each proven to be one by cutting into it.

    Scope ``all`` is every set of channels that layers share: stem, expansion, projection with its residual partners,
    squeeze-excite bottlenecks, the head, hidden units of the classifier.

    Scope ``expand`` is the inner channels of a block: those of every convolution but the stem that a spatial
    convolution (kernel above 1, depthwise or not) reads, and that reach neither a residual sum, a concatenation nor a
    linear layer. In inverted residual networks these are the expansion convolutions; squeeze-excite follows along. In
    ResNets they are the convolutions before the last 3x3 of a block.

    One unit of every group is cut on trial, and the smaller network must compute what the full one does with those
    channels set to zero where they are read. Groups for which that is not so are left alone: their network's code
    counts on its channels in a way that no graph shows.

    Args:
        network: not changed.
        image_size: height and width of its input, pixels.
        scope: see above.
        protect: module names; channels made inside them are left alone.

    Raises:
        InputError: a name in ``protect`` is no module, or nothing is left to prune; the reason names a module.

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
    graph = DependencyGraph(network, image_size=image_size)
    groups: list[ChannelGroup] = []
    left_alone: dict[str, str] = {}
    for coupling in graph.couplings():
        reason = _reason_to_stay(coupling, modules, scope=scope, protect=protect)
        if reason:
            left_alone[coupling.group.layer] = reason
        else:
            groups.append(coupling.group)
    failures = _try_cuts(network, graph, groups)
    left_alone |= failures
    groups = [group for group in groups if group.layer not in failures]
    if not groups:
        example = next(iter(failures or left_alone), None)
        because = f"; of {example}: {left_alone[example]}" if example else ""
        raise InputError(
            f"Scope {scope!r} finds no prunable channels in this network (protected: {', '.join(protect) or 'none'})"
            f"{because}.",
            "scope: all, or protect fewer modules; networks without convolutions cannot be pruned this way",
        )
    return Census(groups=tuple(groups), left_alone=left_alone)


def _reason_to_stay(coupling: Coupling, modules: dict[str, nn.Module], *, scope: str, protect: tuple[str, ...]) -> str:
    group = coupling.group
    makers = [
        member.layer
        for member in group.members
        if member.side == "out" and not isinstance(modules[member.layer], nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    guarded = [name for name in protect for layer in makers if layer == name or layer.startswith(f"{name}.")]
    if guarded:
        return f"{guarded[0]} is protected"
    if coupling.obstacle or scope == "all":
        return coupling.obstacle
    if not (coupling.inner and coupling.spatial) or set(group.consumers) & {group.layer, *group.followers}:
        return "they are not the inner channels of a block (scope: all takes them)"
    return ""


def _try_cuts(network: nn.Module, graph: DependencyGraph, groups: Sequence[ChannelGroup]) -> dict[str, str]:
    """Groups whose cut network does not compute what the masked one does, each with a reason; uses the graph up.

    All are tried at once, in float32. What does not show there is tried in float64, and then one by one.
    """

    def try_again(tried: Sequence[ChannelGroup]) -> str:
        return _try_cut(copy_structure(network).double(), tried, graph.pixels)

    if not groups or not _try_cut(graph.network, groups, graph.pixels):
        return {}
    problem = try_again(groups)
    if not problem:
        return {}
    single = {group.layer: try_again([group]) for group in groups}
    failures = {layer: reason for layer, reason in single.items() if reason}
    rest = [group for group in groups if group.layer not in failures]
    if not failures or try_again(rest):
        raise InputError(
            f"The groups of this network cannot be cut together ({problem}).",
            "prune.protect with the names of the modules that count on their channels",
        )
    return failures


def _try_cut(network: nn.Module, groups: Sequence[ChannelGroup], pixels: int) -> str:
    """Cut the first unit of each group, in place; returns what is wrong, or an empty string."""
    gone = {group.layer: range(group.unit) for group in groups}
    image = torch.randn(1, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
    image = image.to(next(network.parameters()).dtype)
    made, read = cut_groups(groups, gone)
    with torch.no_grad():
        whole = network(image)
        with masked(network, groups, gone):
            wanted = network(image)
        try:
            cut_in_place(network, made=made, read=read)
            answer = network(image)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, InputError) as error:
            reason = " ".join(str(error).split())
            return f"the network does not run with fewer of them: {reason}"
    difference, effect, size = (float(values.abs().max()) for values in (answer - wanted, whole - wanted, wanted))
    if image.dtype == torch.double:
        agrees = difference <= _SHARE_OF_EFFECT * effect + _SHARE_OF_ANSWER * size
    else:
        # An effect that is no more than float32's own rounding could hide a mistake.
        agrees = difference <= _SHARE_OF_EFFECT * effect and effect >= _SEEN_IN_FLOAT32 * size
    if not agrees:
        return "the network without one of them does not compute what it does with that one at zero"
    return ""
