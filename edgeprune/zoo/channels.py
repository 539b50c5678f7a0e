"""Channel counts of a network's modules: reading them, and giving modules other ones.

A pruned network differs from the one its factory builds only in these numbers, so they and the weights are all that a
checkpoint has to keep.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from edgeprune.errors import InputError

# One module's channel counts: attribute name to number.
Channels = dict[str, int]

_ATTRIBUTES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("in_channels", "out_channels", "groups"),
    nn.Linear: ("in_features", "out_features"),
    nn.BatchNorm2d: ("num_features",),
    nn.BatchNorm1d: ("num_features",),
}


def read_channels(network: nn.Module) -> dict[str, Channels]:
    """Channel counts of every convolution, linear layer and BatchNorm, by module name."""
    return {
        name: {attribute: int(getattr(module, attribute)) for attribute in attributes}
        for name, module, attributes in _sized_modules(network)
    }


def resize_channels(network: nn.Module, channels: Mapping[str, Channels]) -> None:
    """Give modules other channel counts; their parameters and buffers become zeros of the new shapes.

    Args:
        network: changed in place.
        channels: module name to its new counts; modules that are not named stay as they are.

    Raises:
        InputError: a name or attribute that the network does not have, or counts that do not divide into groups.
    """
    sized = {name: (module, attributes) for name, module, attributes in _sized_modules(network)}
    for name, counts in channels.items():
        if name not in sized or set(counts) - set(sized[name][1]):
            raise InputError(
                f"The network has no module {name!r} with {', '.join(counts)}.",
                "rebuild the checkpoint with the network that made it",
            )
        module, _ = sized[name]
        for attribute, count in counts.items():
            setattr(module, attribute, count)
        _reallocate(name, module)


def _sized_modules(network: nn.Module) -> Iterator[tuple[str, nn.Module, tuple[str, ...]]]:
    for name, module in network.named_modules():
        for kind, attributes in _ATTRIBUTES.items():
            if isinstance(module, kind):
                yield name, module, attributes


def _reallocate(name: str, module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        if module.in_channels % module.groups or module.out_channels % module.groups:
            raise InputError(
                f"{name}: {module.in_channels} input and {module.out_channels} output channels do not divide into "
                f"{module.groups} groups.",
                "rebuild the checkpoint: its channel counts are damaged",
            )
        weight = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
        bias = (module.out_channels,)
    elif isinstance(module, nn.Linear):
        weight, bias = (module.out_features, module.in_features), (module.out_features,)
    else:
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        weight = bias = (module.num_features,)
        for buffer in ("running_mean", "running_var"):
            if getattr(module, buffer) is not None:
                setattr(module, buffer, torch.zeros(module.num_features))
    if module.weight is not None:
        module.weight = nn.Parameter(torch.zeros(weight))
    if module.bias is not None:
        module.bias = nn.Parameter(torch.zeros(bias))
