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
    names = {**made, **read}
    # What is replaced anyway is not copied before; weights that another layer shares are.
    named = (*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False))
    shared = {id(tensor) for name, tensor in named if name.rpartition(".")[0] not in names}
    replaced = {id(tensor): tensor for name in names for tensor in _tensors(network, name).values()}
    small = copy.deepcopy(network, memo={key: tensor for key, tensor in replaced.items() if key not in shared})
    _cut(small, made, read, copies=True)
    return small


def cut_in_place(
    network: nn.Module, *, made: Mapping[str, Collection[int]], read: Mapping[str, Collection[int]]
) -> None:
    """As ``cut_channels``, but the network itself becomes smaller; its weights may be views of what they were."""
    _cut(network, made, read, copies=False)


def copy_structure(network: nn.Module) -> nn.Module:
    """A copy whose parameters share memory with the network's, for looking at and cutting; in evaluation mode."""
    return copy.deepcopy(network, memo={id(own): nn.Parameter(own.detach()) for own in network.parameters()}).eval()


def _cut(
    network: nn.Module, made: Mapping[str, Collection[int]], read: Mapping[str, Collection[int]], *, copies: bool
) -> None:
    lost = {name: (sorted(set(made.get(name, ()))), sorted(set(read.get(name, ())))) for name in {**made, **read}}
    left = {
        name: {key: _without(tensor, *lost[name], copies=copies) for key, tensor in _tensors(network, name).items()}
        for name in lost
    }
    counts = {name: _counts_after(network.get_submodule(name), *lost[name]) for name in lost}
    with torch.device("meta"):  # zeros would only be written to be replaced
        resize_channels(network, counts)
    for name, state in left.items():
        network.get_submodule(name).load_state_dict(state, assign=True)


def _tensors(network: nn.Module, layer: str) -> dict[str, Tensor]:
    return network.get_submodule(layer).state_dict(keep_vars=True)


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


def _without(tensor: Tensor, rows: list[int], columns: list[int], *, copies: bool) -> Tensor:
    whole = left = tensor.detach()
    for axis, gone in ((0, rows), (1, columns)):
        if not gone or whole.ndim <= axis:
            continue
        if gone[-1] == len(gone) - 1:  # the first ones, as in a trial: what is left is a view
            left = left.narrow(axis, len(gone), left.shape[axis] - len(gone))
        else:
            kept = torch.ones(left.shape[axis], dtype=torch.bool, device=left.device)
            kept[gone] = False
            left = left.index_select(axis, kept.nonzero().flatten())
    shared = left.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    return left.clone() if copies and shared else left
