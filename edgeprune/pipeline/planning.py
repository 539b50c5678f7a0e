"""Plans with the recipe's values: the census, scores on real images, the channels that go."""

import math
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.data import Dataset, iterate_batches
from edgeprune.dependencies import ChannelGroup
from edgeprune.plan import choose_channels, find_groups, score_channels
from edgeprune.recipe import Recipe
from edgeprune.results import ChannelPlan

SCORING_BATCH = 64


def count_groups(recipe: Recipe, network: nn.Module) -> tuple[ChannelGroup, ...]:
    """The groups that the recipe lets be pruned."""
    prune = recipe.prune
    return find_groups(network, image_size=recipe.data.image_size, scope=prune.scope, protect=prune.protect)


def score_groups(
    recipe: Recipe, network: nn.Module, groups: tuple[ChannelGroup, ...], dataset: Dataset, *, seed: int
) -> dict[str, np.ndarray]:
    """The recipe's importance of every channel; on train images where it looks at any."""
    prune = recipe.prune
    return score_channels(
        network,
        groups,
        importance=prune.importance,
        coupled=prune.coupled,
        normalise=prune.normalise,
        batches=sample_batches(recipe, dataset) if prune.importance in {"taylor", "activation"} else None,
        seed=seed,
    )


def plan_target(
    recipe: Recipe, groups: tuple[ChannelGroup, ...], scores: dict[str, np.ndarray], target: float, *, prunable: int
) -> ChannelPlan:
    """The channels that go for a target.

    Raises:
        UnreachableTargetError: more than can go while every layer keeps a block.
    """
    return choose_channels(
        scores,
        target=target,
        prunable=prunable,
        importance=recipe.prune.importance,
        align=recipe.prune.align,
        units={group.layer: group.unit for group in groups},
    )


def sample_batches(recipe: Recipe, dataset: Dataset) -> list[tuple[Tensor, Tensor]]:
    """The train images that an importance looks at, normalised, with their classes."""
    train, data = dataset.train.labelled(), recipe.data
    size = min(SCORING_BATCH, len(train.labels))
    count = math.ceil(min(recipe.prune.importance_images, len(train.labels)) / size)
    shuffled = torch.Generator().manual_seed(recipe.seed)
    batches = iterate_batches(train, batch_size=size, mean=data.mean, std=data.std, generator=shuffled)
    return list(islice(batches, count))
