"""Inputs that never change: what a layer makes of them, and where that constant is kept once they are gone."""

import copy
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def is_unpadded(layer: nn.Module) -> bool:
    """True for a layer that makes a constant of a constant: linear, or a convolution that no zeros are added to."""
    if not isinstance(layer, nn.Conv2d):
        return isinstance(layer, nn.Linear)
    # Another kind of convolution may pad in its own code, for which a 1x1 kernel has no use.
    plain = type(layer) is nn.Conv2d or layer.kernel_size == (1, 1)
    return plain and layer.groups == 1 and layer.padding in ((0, 0), "valid")


def answer_constants(layer: nn.Module, values: Mapping[int, float]) -> Tensor:
    """What some inputs add to every output of an unpadded layer while they stay as they are.

    Args:
        layer: see ``is_unpadded``.
        values: input channel or feature to its value.

    Returns:
        float64, shape (outputs,): ``sum over i of values[i] * sum over the kernel of weight[:, i]``.
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    columns = weight.detach()[:, list(values)].double()
    if columns.dim() > 2:
        columns = columns.sum(dim=(2, 3))
    return columns @ torch.tensor(list(values.values()), dtype=torch.double)


def find_absorbers(network: nn.Module, image: Tensor) -> dict[str, str]:
    """Who can keep what a layer makes of constant inputs.

    That is the layer's own bias; without one, the running mean of a BatchNorm that nobody else feeds and that alone
    reads the layer. Nothing is added to a network that its factory would not build.

    Args:
        network: not changed.
        image: any input, shape (1, 3, height, width).

    Returns:
        Name of an unpadded layer to its own, or to the name of that BatchNorm; layers that cannot keep it are missing.
    """
    network = copy.deepcopy(network).eval()
    norms = _norms_alone_behind(network, image)
    absorbers = {}
    for name, layer in network.named_modules():
        if not is_unpadded(layer):
            continue
        if layer.bias is not None:
            absorbers[name] = name
        elif name in norms:
            absorbers[name] = norms[name]
    return absorbers


def absorb_constants(
    network: nn.Module, constants: Mapping[str, Mapping[int, float]], absorbers: Mapping[str, str]
) -> nn.Module:
    """A copy that, with some inputs at zero, computes what the network computes with them at their constant values.

    Args:
        network: not changed.
        constants: layer to input channel or feature to the value that it always has; each layer is in ``absorbers``.
        absorbers: from ``find_absorbers``.
    """
    changed = copy.deepcopy(network)
    with torch.no_grad():
        for name, values in constants.items():
            added = answer_constants(changed.get_submodule(name), values)
            keeper = changed.get_submodule(absorbers[name])
            own = absorbers[name] == name
            kept = keeper.bias if own else keeper.running_mean
            assert isinstance(kept, Tensor)
            kept.copy_(kept.double() + added if own else kept.double() - added)
    return changed


def _norms_alone_behind(network: nn.Module, image: Tensor) -> dict[str, str]:
    """Layer to the BatchNorm that reads just what it gives, where both have no one else."""
    made: dict[str, list[Any]] = defaultdict(list)
    read: dict[str, list[Any]] = defaultdict(list)

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            made[name].append(output.grad_fn)
        elif module.running_mean is not None:
            read[name].append(inputs[0].grad_fn)

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d):
            module.register_forward_hook(lambda module, inputs, output, name=name: note(name, module, inputs, output))
    # Autograd knows every operator that reads a tensor, functions included, which hooks on modules do not see.
    with torch.enable_grad():
        readers = _count_readers(network(image.detach().clone().requires_grad_(True)).grad_fn)
    norms = {frozenset(nodes): name for name, nodes in read.items()}
    return {
        layer: norms[frozenset(nodes)]
        for layer, nodes in made.items()
        if frozenset(nodes) in norms and all(readers[node] == 1 for node in nodes)
    }


def _count_readers(end: Any) -> Counter[Any]:
    readers: Counter[Any] = Counter()
    pending, met = [end], {end}
    while pending:
        for node, _ in pending.pop().next_functions:
            readers[node] += 1
            if node is not None and node not in met:
                met.add(node)
                pending.append(node)
    return readers
