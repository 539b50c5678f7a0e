"""What removing channels of a group means, layer by layer: indices to cut, or values to hold at zero."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from edgeprune.dependencies import ChannelGroup

Indices = dict[str, set[int]]


def cut_groups(groups: Iterable[ChannelGroup], gone: Mapping[str, Collection[int]]) -> tuple[Indices, Indices]:
    """The indices that every layer loses when channels of groups go.

    Args:
        groups: a network's census.
        gone: group name to the group's channels that go; groups that are not named keep all.

    Returns:
        Two mappings from layer name to indices: of what it makes, and of what it reads.
    """
    made: Indices = defaultdict(set)
    read: Indices = defaultdict(set)
    for group in groups:
        leaving = set(gone.get(group.layer, ()))
        if not leaving:
            continue
        for member in group.members:
            lost = made if member.side == "out" else read
            lost[member.layer].update(
                index for index, root in zip(member.indices, member.roots, strict=True) if root in leaving
            )
    return dict(made), dict(read)


@contextmanager
def masked(
    network: nn.Module, groups: Iterable[ChannelGroup], gone: Mapping[str, Collection[int]]
) -> Iterator[nn.Module]:
    """Hold channels at zero at the input of every layer that reads them, while the block runs.

    Args:
        network: gets hooks, which are taken off again.
        groups: its census.
        gone: group name to the group's channels that are held at zero.
    """
    _, read = cut_groups(groups, gone)
    hooks = [_hold_at_zero(network.get_submodule(name), indices) for name, indices in read.items()]
    try:
        yield network
    finally:
        for hook in hooks:
            hook.remove()


def _hold_at_zero(layer: nn.Module, indices: set[int]) -> Any:
    lost = torch.tensor(sorted(indices), dtype=torch.long)
    axis = -1 if isinstance(layer, nn.Linear) else 1
    return layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].index_fill(axis, lost, 0.0), *inputs[1:]))
