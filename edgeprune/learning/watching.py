"""What modules inside a network give, read while it runs as a whole."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def watch_outputs(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What the named modules gave in the latest forward pass, while the context lasts.

    The tensors are the network's own, not copies: one that a later module changes in place is seen as changed, and a
    gradient flows through it all the same.

    Args:
        network: is given hooks, which are taken away at the end.
        names: of its modules.

    Yields:
        Outputs by module name; empty before the first forward pass.

    Raises:
        AttributeError: there is no module of a name.
    """
    latest: dict[str, Tensor] = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda _, __, result, name=name: latest.__setitem__(name, result)
        )
        for name in names
    ]
    try:
        yield latest
    finally:
        for hook in hooks:
            hook.remove()
