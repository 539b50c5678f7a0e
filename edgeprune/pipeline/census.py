"""What of a network can be pruned, and what each part of that is worth: of a recipe's levels, or of a bare network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from edgeprune.dependencies import ChannelGroup
from edgeprune.errors import InputError
from edgeprune.pipeline.finished import finished_levels
from edgeprune.pipeline.workspace import Workspace
from edgeprune.plan.cost_model import ModelCost, trace_costs
from edgeprune.plan.groups import take_census
from edgeprune.plan.prices import GroupPrice, price_groups
from edgeprune.recipe import Recipe
from edgeprune.zoo import NetworkSpec, build_network, check_network, load_checkpoint

Scope = Literal["expand", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedCensus:
    """The groups of a network with what they cost.

    Attributes:
        network: its name.
        image_size: pixels.
        scope, align: as they were asked for.
        groups: in network order.
        prices: one a group, in the same order.
        left_alone: layers that make channels which stay, each with the reason as a clause about those channels.
        cost: of the whole network; memory and file are those of int8.
        rest: of what no group reaches.
    """

    network: str
    image_size: int
    scope: Scope
    align: int
    groups: tuple[ChannelGroup, ...]
    prices: tuple[GroupPrice, ...]
    left_alone: dict[str, str]
    cost: ModelCost
    rest: ModelCost

    @property
    def channels(self) -> int:
        """Of all groups."""
        return sum(group.channels for group in self.groups)

    @property
    def params_share(self) -> float:
        """Parameters that any group reaches, in [0, 1]; groups share some, so this is less than their sum."""
        return 1 - self.rest.params / self.cost.params

    @property
    def macs_share(self) -> float:
        """Multiply-accumulates that any group reaches, in [0, 1]."""
        return 1 - self.rest.macs / self.cost.macs

    @property
    def ram_share(self) -> float:
        """Of what is alive at the peak, in [0, 1]."""
        return sum(price.ram_share for price in self.prices)


def census_of_recipe(
    recipe: Recipe, workspace: Workspace, *, level: str = "dense", scope: Scope | None = None, align: int | None = None
) -> PricedCensus:
    """Census of a recipe's baseline, or of one of its levels; it needs no images.

    Args:
        recipe: its checkpoints, its scope and what it protects, how it exports.
        workspace: where they lie.
        level: an id such as ``s60``; ``dense`` is the unpruned network.
        scope, align: in place of the recipe's.

    Raises:
        InputError: there is no such checkpoint, or nothing of it can be pruned.
    """
    folder = workspace.baseline_folder(recipe) if level == "dense" else workspace.level_folder(recipe, level)
    if not folder.is_dir():
        if level == "dense":
            raise InputError(
                f"The recipe {recipe.name!r} has no baseline: {folder} does not exist.",
                f"edgeprune train with the same recipe, or edgeprune census --network {recipe.model.network}",
            )
        there = ", ".join(["dense", *finished_levels(recipe, workspace)])
        raise InputError(f"The level {level!r} of {recipe.name!r} does not exist.", f"--level with one of: {there}")
    checkpoint = load_checkpoint(folder, own_factory=recipe.model.network)
    return _price(
        checkpoint.network,
        name=checkpoint.spec.network,
        image_size=checkpoint.spec.image_size,
        scope=scope or recipe.prune.scope,
        align=align or recipe.prune.align,
        protect=recipe.prune.protect,
        rotate=recipe.export.pad == "rotate",
        split_peak=recipe.quantise.split_peak,
    )


def census_of_network(network: str, *, image_size: int, classes: int, scope: Scope, align: int) -> PricedCensus:
    """Census of a network by name, with fresh weights.

    Args:
        network: as in ``NetworkSpec``.
        image_size: pixels.
        classes: outputs of its head.
        scope, align: see the recipe's section ``prune``.

    Raises:
        InputError: no such network, it does not run at this size, or nothing of it can be pruned.
        MissingExtraError: the network is timm's, which is not installed.
    """
    spec = NetworkSpec(network=network, num_classes=classes, image_size=image_size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = build_network(spec)
        _disturb(built)
    check_network(built, spec)
    return _price(
        built,
        name=network,
        image_size=image_size,
        scope=scope,
        align=align,
        protect=(),
        rotate=False,
        split_peak=False,
    )


def _disturb(network: nn.Module) -> None:
    # Some networks are born with scales of zero behind their residual branches: a cut in there would go unnoticed.
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.1)


def _price(
    network: nn.Module,
    *,
    name: str,
    image_size: int,
    scope: Scope,
    align: int,
    protect: Sequence[str],
    rotate: bool,
    split_peak: bool,
) -> PricedCensus:
    census = take_census(network, image_size=image_size, scope=scope, protect=tuple(protect))
    model = trace_costs(network, census.groups, image_size=image_size, rotate=rotate, split_peak=split_peak)
    units = {group.layer: group.unit for group in census.groups}
    return PricedCensus(
        network=name,
        image_size=image_size,
        scope=scope,
        align=align,
        groups=census.groups,
        prices=price_groups(model, align=align, units=units),
        left_alone=census.left_alone,
        cost=model.cost({}),
        rest=model.cost(dict.fromkeys(model.groups, 0)),
    )
