"""The widest hard-swish computed in parts: the network answers the same, with less memory and finer steps.

TFLite Micro computes a hard-swish out of place, so a stem of 16 channels at 48 x 48 pixels needs its 36,864 bytes
twice. A depthwise convolution reads it channel by channel: few channels can go through convolution, hard-swish and
depthwise convolution before the next ones start, and only the small results wait for each other. Each part has a scale
of its own too, so channels are put together by range.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from edgeprune.channel_parts import ChainBytes, list_cuts, peak_of_cut
from edgeprune.quantise.graph import follow_channels, is_depthwise, is_relu, trace_network
from edgeprune.quantise.layers import bias_of, set_parameter, weight_of

# What few values exceed is clipped by calibration, and does not decide a part's range.
_QUANTILE = 0.999


class Parts(nn.Module):
    """Branches over one input, whose channels are concatenated; they are its children ``0``, ``1``, ..."""

    def __init__(self, branches: list[nn.Module]) -> None:
        super().__init__()
        for number, branch in enumerate(branches):
            self.add_module(str(number), branch)

    def forward(self, x: Tensor) -> Tensor:
        """From (n, channels, height, width) to the sum of the branches' channels."""
        return torch.cat([branch(x) for branch in self.children()], dim=1)


# Convolution, hard-swish, depthwise convolution and, if there is one, the ReLU after it.
_Chain = tuple[fx.Node, ...]


def compute_in_parts(network: nn.Module, images: Tensor) -> tuple[int, ...]:
    """Split the hard-swish that decides peak memory, where that lowers the peak.

    Convolution, hard-swish and the one depthwise convolution that reads it become a ``Parts`` in the depthwise
    convolution's place; the others become identities. Channels change places, in everything that reads them too.

    Args:
        network: changed in place; BatchNorm folded, in evaluation mode.
        images: normalised, shape (n, 3, height, width); ranges are taken from them.

    Returns:
        Channels of each part, in the order in which they are computed; empty where nothing was split.

    Raises:
        EdgepruneError: the network cannot be traced.

    Source:
        Less memory by computing a part at a time: Lin et al. 2021, "MCUNetV2: Memory-efficient Patch-based Inference
        for Tiny Deep Learning", section 3; there the parts are regions of the image, which compute their seams twice.
    """
    graph = trace_network(network)
    module = fx.GraphModule(network, graph)
    ShapeProp(module).propagate(images[:1])
    modules = dict(network.named_modules())
    chains = list(_find_chains(graph, modules))
    if not chains:
        return ()
    chain = max(chains, key=lambda each: _size(each[1]))
    reach = follow_channels(chain[0], modules)
    if reach is None:
        return ()
    others = max((_live(node) for node in graph.nodes if _is_out_of_place(node, chain, modules)), default=0)
    split = _choose_split(chain, _channel_noise(network, chain, images), others=others)
    if len(split.sizes) < 2:
        return ()
    for name in reach.rows:
        _take_rows(modules[name], split.order)
    for name in reach.columns:
        set_parameter(modules[name], "weight", weight_of(modules[name])[:, split.order])
    _replace(network, chain, modules, split.sizes)
    return split.sizes


def _find_chains(graph: fx.Graph, modules: dict[str, nn.Module]) -> Iterator[_Chain]:
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        nodes = [node, *_only_readers(node)][:4]
        kinds = [modules.get(str(each.target)) if each.op == "call_module" else None for each in nodes]
        match kinds:
            case [nn.Conv2d(groups=1), nn.Hardswish(), nn.Conv2d() as depthwise, *rest] if is_depthwise(depthwise):
                chain = tuple(nodes[: 4 if rest and isinstance(rest[0], nn.ReLU | nn.ReLU6) else 3])
                if all(calls[str(each.target)] == 1 for each in chain):
                    yield chain


def _only_readers(node: fx.Node) -> Iterator[fx.Node]:
    while len(node.users) == 1:
        node = next(iter(node.users))
        yield node


@dataclass(frozen=True, slots=True, kw_only=True)
class _Noise:
    """Of each channel of a hard-swish: how far it reaches, and how loudly its readers hear a step's rounding."""

    reach: Tensor
    gain: Tensor


def _channel_noise(network: nn.Module, chain: _Chain, images: Tensor) -> _Noise:
    depthwise = network.get_submodule(str(chain[2].target))
    seen: list[Tensor] = []
    hook = depthwise.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        with torch.no_grad():
            network(images)
    finally:
        hook.remove()
    values = seen[0].transpose(0, 1).flatten(1).abs()
    rank = max(1, round(values.shape[1] * _QUANTILE))
    gain = weight_of(depthwise).detach().flatten(1).square().sum(1)
    return _Noise(reach=values.kthvalue(rank, dim=1).values, gain=gain)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    """Channels in a new order, and how many of them make each part."""

    order: Tensor
    sizes: tuple[int, ...]


def _choose_split(chain: _Chain, noise: _Noise, *, others: int) -> _Split:
    """The sizes with the lowest peak, and of those the ones whose rounding is heard least; ``others`` is a floor."""
    channels = len(noise.reach)
    by_reach = noise.reach.argsort(stable=True)
    each = _chain_bytes(chain, channels)

    def judge(sizes: tuple[int, ...]) -> tuple[int, float]:
        parts = torch.split(by_reach, list(sizes))
        heard = sum((noise.reach[part].max().square() * noise.gain[part].sum() for part in parts), torch.zeros(()))
        return max(others, peak_of_cut(sizes, each)), float(heard)

    best = min(list_cuts(channels), key=judge)
    if judge(best)[0] >= judge((channels,))[0]:
        best = (channels,)
    # Within a part channels keep their order: another machine's last digits must not swap two of them.
    order = torch.cat([part.sort().values for part in torch.split(by_reach, list(best))])
    return _Split(order=order, sizes=best)


def _chain_bytes(chain: _Chain, channels: int) -> ChainBytes:
    convolution, swish, depthwise = chain[:3]
    return ChainBytes(
        source=sum(_size(node) for node in convolution.all_input_nodes),
        wide=_size(swish) // channels,
        padded=0,
        narrow=_size(depthwise) // channels,
    )


def _is_out_of_place(node: fx.Node, chain: _Chain, modules: dict[str, nn.Module]) -> bool:
    """Whether a node outside the chain needs its input and its output at once."""
    return node.op in ("call_module", "call_function") and node not in chain and not is_relu(node, modules)


def _live(node: fx.Node) -> int:
    return _size(node) + sum(_size(each) for each in node.all_input_nodes)


def _size(node: fx.Node) -> int:
    """Values of one image."""
    shape = getattr(node.meta.get("tensor_meta"), "shape", None)
    return int(torch.Size(shape).numel()) if shape is not None else 0


def _take_rows(layer: nn.Module, order: Tensor) -> None:
    set_parameter(layer, "weight", weight_of(layer)[order])
    set_parameter(layer, "bias", bias_of(layer)[order])


def _replace(network: nn.Module, chain: _Chain, modules: dict[str, nn.Module], sizes: tuple[int, ...]) -> None:
    branches: list[nn.Module] = []
    for rows in torch.split(torch.arange(sum(sizes)), list(sizes)):
        layers = [copy.deepcopy(modules[str(node.target)]) for node in chain]
        for layer in (layers[0], layers[2]):
            assert isinstance(layer, nn.Conv2d)
            _take_rows(layer, rows)
            layer.out_channels = len(rows)
            if layer is layers[2]:
                layer.in_channels = layer.groups = len(rows)
        branches.append(nn.Sequential(*layers))
    for node in chain:
        network.set_submodule(str(node.target), Parts(branches) if node is chain[2] else nn.Identity())
