"""ReLU in place of a hard-swish or SiLU, where the images are still large and memory peaks.

A runtime on a microcontroller computes a ReLU together with the convolution before it; a hard-swish takes a second
tensor of the same size. In the first blocks those two decide how much memory the whole network needs. Recovery makes up
for the change.
"""

from collections.abc import Collection, Iterator

from torch import nn

from edgeprune.errors import InputError

_CURVED = (nn.Hardswish, nn.SiLU)


def use_early_relu(network: nn.Module, *, blocks: int) -> tuple[str, ...]:
    """Replace every hard-swish and SiLU in the first blocks of a network by a ReLU.

    Args:
        network: changed in place. An activation that a later block uses as well stays there as it is; one that the
            network calls as a function cannot be seen.
        blocks: how many blocks from the input, at least 1; see ``list_blocks``.

    Returns:
        Names of what was replaced, in network order; empty where the first blocks have no such activation (any more).

    Raises:
        InputError: the network has fewer blocks.
    """
    every = list_blocks(network)
    if not 1 <= blocks <= len(every):
        raise InputError(
            f"activations.blocks = {blocks} is outside 1 to {len(every)}, the blocks of this network.",
            "activations: {early: relu, blocks: 1} (the stem)",
        )
    early = {name for block in every[:blocks] for name in block}
    names = tuple(
        name
        for name, module in network.named_modules(remove_duplicate=False)
        if isinstance(module, _CURVED) and any(name == part or name.startswith(f"{part}.") for part in early)
    )
    use_relu(network, names)
    return names


def use_relu(network: nn.Module, names: Collection[str]) -> None:
    """Replace the named hard-swishes and SiLUs of a network by ReLU; whether they work in place stays.

    Args:
        network: changed in place, or not at all.
        names: module names.

    Raises:
        InputError: one of them is no hard-swish or SiLU.
    """
    modules = dict(network.named_modules(remove_duplicate=False))
    for name in names:
        if not isinstance(modules.get(name), _CURVED):
            raise InputError(
                f"The network has no hard-swish or SiLU {name!r} that a ReLU could replace.",
                "rebuild the checkpoint with the network that made it",
            )
    for name in names:
        module = modules[name]
        # A fresh one each: the module itself may have other names, in later blocks.
        network.set_submodule(name, nn.ReLU(inplace=bool(module.inplace)).train(module.training))


def list_blocks(network: nn.Module) -> tuple[tuple[str, ...], ...]:
    """The blocks of a network in the order of its modules, each as the names of the modules that it consists of.

    The blocks of mobilenet_v3_small are ``features.0`` to ``features.12``. Layers that stand beside blocks, such as
    ResNet's first convolution, BatchNorm and ReLU, are one block together. What holds no convolution is none.
    """
    prefix, holder = "", network
    # A network inside a wrapper, or torchvision's `features` beside a classifier: the blocks lie further in.
    while len(inner := [(name, child) for name, child in holder.named_children() if _convolves(child)]) == 1:
        name, child = inner[0]
        if _is_layer(child):
            break
        prefix, holder = f"{prefix}{name}.", child
    blocks: list[dict[str, nn.Module]] = []
    among_layers = False
    for name, module in _parts(holder):
        if not (among_layers and _is_layer(module)):
            blocks.append({})
        blocks[-1][prefix + name] = module
        among_layers = _is_layer(module)
    return tuple(tuple(block) for block in blocks if any(_convolves(module) for module in block.values()))


def _parts(holder: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in holder.named_children():
        # Subclasses of Sequential are blocks of their own kind; in a plain one, blocks stand in a row.
        if type(module) is nn.Sequential and type(holder) is not nn.Sequential:
            yield from ((f"{name}.{part}", child) for part, child in module.named_children())
        else:
            yield name, module


def _is_layer(module: nn.Module) -> bool:
    return not any(True for _ in module.children())


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(each, nn.Conv2d) for each in module.modules())
