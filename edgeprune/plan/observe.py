"""Importance that is seen while a network runs over real images."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.dependencies import ChannelGroup, GroupMember
from edgeprune.errors import InputError
from edgeprune.plan.importance_members import combine_parts

Batches = Sequence[tuple[Tensor, Tensor]]


class _Place(NamedTuple):
    """What a layer gives ("out") or reads ("in")."""

    layer: str
    side: Literal["out", "in"]


def observe_channels(
    network: nn.Module,
    groups: Sequence[ChannelGroup],
    *,
    importance: Literal["taylor", "activation"],
    coupled: Literal["producer", "all"],
    batches: Batches | None,
) -> dict[str, np.ndarray]:
    """How much the loss depends on each channel, or how much it puts out; ``score_channels`` says which is which.

    A channel is watched where its layer gives it, or behind the BatchNorm that reads just that: a channel that is
    zero in front of a BatchNorm leaves it as a constant, and one that is removed does not. With ``coupled="all"`` it is
    also watched where each reader takes it in, behind every other layer that changes it, and the mean is taken.

    Args:
        network: not changed, and neither is the caller's random state: a copy runs in evaluation mode.
        groups: census of the network.
        importance: what is measured.
        coupled: at which layers.
        batches: normalised images, shape (n, 3, height, width), and classes, shape (n,).

    Raises:
        InputError: no images, or a gradient or an output that is not finite.
    """
    if not batches:
        raise InputError(
            f"prune.importance = {importance!r} is measured on images, and it got none.",
            "pass batches of train images, or importance: l1_norm",
        )
    network = copy.deepcopy(network).eval().requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        norms = _norms_behind(network, batches[0][0][:1])
        places = {group.layer: _places(group, norms, coupled) for group in groups}
        watched = {place for parts in places.values() for _, place in parts}
        measure = _squared_loss_changes if importance == "taylor" else _energies
        seen = measure(network, watched, batches)
    for place, values in seen.items():
        if not bool(values.isfinite().all()):
            what = "gradient" if importance == "taylor" else "channel"
            raise InputError(
                f"prune.importance = {importance!r} met a {what} that is not finite at {place.layer}.",
                "a baseline that did not diverge, images normalised as in training, or importance: l1_norm",
            )
    return {
        group.layer: combine_parts(
            [(member, seen[place][list(member.indices)].numpy()) for member, place in places[group.layer]],
            group.channels,
        )
        for group in groups
    }


def _places(
    group: ChannelGroup, norms: dict[str, str], coupled: Literal["producer", "all"]
) -> list[tuple[GroupMember, _Place]]:
    """Where each layer of a group is watched; a BatchNorm directly behind a layer stands for both."""
    members = group.members if coupled == "all" else group.members[:1]
    makers = {member.layer for member in members if member.side == "out"}
    behind = {norm for layer, norm in norms.items() if layer in makers}
    return [
        (member, _Place(norms.get(member.layer, member.layer) if member.side == "out" else member.layer, member.side))
        for member in members
        if member.side == "in" or member.layer not in behind
    ]


def _norms_behind(network: nn.Module, image: Tensor) -> dict[str, str]:
    """Layer to the BatchNorm that reads the very tensor that the layer gave, where nothing else comes between."""
    makers: list[tuple[Tensor, str]] = []  # holds the tensors: identity is only meant while they live
    norms: dict[str, str] = {}

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            makers.append((output, name))
        else:
            for given, maker in makers:
                if given is inputs[0]:
                    norms.setdefault(maker, name)

    kinds = nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: note(name, module, inputs, output))
        for name, module in network.named_modules()
        if isinstance(module, kinds)
    ]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    return norms


@contextmanager
def _watching(
    network: nn.Module, places: Iterable[_Place], look: Callable[[_Place, Tensor, int], Tensor | None]
) -> Iterator[None]:
    """Show ``look`` the tensor at each place with the axis of its channels; what it returns goes on in its stead."""

    def before(module: nn.Module, inputs: tuple[Tensor, ...], place: _Place) -> tuple[Tensor, ...] | None:
        changed = look(place, inputs[0], _channel_axis(module))
        return None if changed is None else (changed, *inputs[1:])

    hooks = []
    for place in places:
        layer = network.get_submodule(place.layer)
        if place.side == "in":
            hooks.append(layer.register_forward_pre_hook(lambda module, inputs, p=place: before(module, inputs, p)))
        else:
            hooks.append(
                layer.register_forward_hook(
                    lambda module, inputs, output, p=place: look(p, output, _channel_axis(module))
                )
            )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _squared_loss_changes(network: nn.Module, places: set[_Place], batches: Batches) -> dict[_Place, Tensor]:
    """Squared change of a batch's mean loss, to first order, when a gate of one at a place is closed; mean over images.

    Returns:
        float64, shape (channels of the layer,), for each place.
    """
    totals: dict[_Place, Tensor] = {}
    gates: dict[_Place, Tensor] = {}

    def gate(place: _Place, values: Tensor, axis: int) -> Tensor:
        # A layer that is called twice has one gate: it loses its channel in both calls.
        if place not in gates:
            gates[place] = torch.ones(values.shape[axis], dtype=values.dtype, requires_grad=True)
        shape = [1] * values.dim()
        shape[axis] = -1
        return values * gates[place].reshape(shape)

    with torch.enable_grad(), _watching(network, places, gate):
        for images, labels in batches:
            loss = functional.cross_entropy(network(images), labels)
            gradients = torch.autograd.grad(loss, list(gates.values()), materialize_grads=True)
            for place, gradient in zip(gates, gradients, strict=True):
                squares = gradient.double().square() * len(labels)
                totals[place] = totals[place] + squares if place in totals else squares
    count = sum(len(labels) for _, labels in batches)
    return {place: total / count for place, total in totals.items()}


def _energies(network: nn.Module, places: set[_Place], batches: Batches) -> dict[_Place, Tensor]:
    """Mean square over images and positions: float64, shape (channels of the layer,), for each place."""
    sums: dict[_Place, Tensor] = {}
    counts: dict[_Place, int] = defaultdict(int)

    def add(place: _Place, values: Tensor, axis: int) -> None:
        squares = values.double().square().movedim(axis, 0).flatten(1)
        sums[place] = sums[place] + squares.sum(dim=1) if place in sums else squares.sum(dim=1)
        counts[place] += squares.shape[1]

    with torch.no_grad(), _watching(network, places, add):
        for images, _ in batches:
            network(images)
    return {place: total / counts[place] for place, total in sums.items()}


def _channel_axis(module: nn.Module) -> int:
    return -1 if isinstance(module, nn.Linear) else 1
