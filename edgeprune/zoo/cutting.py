"""Cut channels out of a copy of a network, by index."""

import copy
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from edgeprune.zoo.channels import Channels, resize_channels


def cut_channels(
    network: nn.Module, *, made: Mapping[str, Collection[int]], read: Mapping[str, Collection[int]]
) -> nn.Module:
    """A copy without some channels. Which layers must lose the same ones is the caller's business.

    A convolution in groups loses whole groups: its outputs decide, and the inputs of their groups go along.

    Args:
        network: not changed.
        made: layer name to the channels that go of its output; a BatchNorm's entries.
        read: layer name to the channels or features that go of its input.

    Returns:
        A smaller network, in the mode and of the precision of the one given.
    """
    names = sorted({**made, **read})
    whole = {name: network.get_submodule(name).state_dict(keep_vars=True) for name in names}
    # What is replaced anyway is not copied before; weights that another layer shares are.
    named = (*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False))
    shared = {id(tensor) for name, tensor in named if name.rpartition(".")[0] not in whole}
    replaced = {id(tensor): tensor for state in whole.values() for tensor in state.values()}
    small = copy.deepcopy(network, memo={key: tensor for key, tensor in replaced.items() if key not in shared})
    lost = {name: (sorted(set(made.get(name, ()))), sorted(set(read.get(name, ())))) for name in names}
    resize_channels(small, {name: _counts_after(small.get_submodule(name), *lost[name]) for name in names})
    for name in names:
        state = {key: _without(tensor.detach(), *lost[name]) for key, tensor in whole[name].items()}
        small.get_submodule(name).load_state_dict(state, assign=True)
    return small


def _counts_after(module: nn.Module, made: list[int], read: list[int]) -> Channels:
    if isinstance(module, nn.Linear):
        return {"in_features": module.in_features - len(read), "out_features": module.out_features - len(made)}
    if not isinstance(module, nn.Conv2d):
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        return {"num_features": module.num_features - len(made)}
    outputs = module.out_channels - len(made)
    if module.groups == 1:
        return {"in_channels": module.in_channels - len(read), "out_channels": outputs}
    groups = outputs // (module.out_channels // module.groups)
    return {
        "in_channels": groups * (module.in_channels // module.groups),
        "out_channels": outputs,
        "groups": groups,
    }


def _without(tensor: Tensor, rows: list[int], columns: list[int]) -> Tensor:
    whole = tensor
    for axis, gone in ((0, rows), (1, columns)):
        if gone and tensor.ndim > axis:
            kept = torch.ones(tensor.shape[axis], dtype=torch.bool, device=tensor.device)
            kept[gone] = False
            tensor = tensor.index_select(axis, kept.nonzero().flatten())
    return whole.clone() if tensor is whole else tensor
