"""Sets of channels that a network may lose without giving other answers, the largest first."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from edgeprune.absorb import absorb_constants, find_absorbers
from edgeprune.data import Dataset, PackedSplit, iterate_batches
from edgeprune.dependencies import ChannelGroup
from edgeprune.evaluation import DIVERGED
from edgeprune.pipeline.planning import count_groups
from edgeprune.pipeline.workspace import Progress, Reporter
from edgeprune.plan.dead import DeadUnits, find_dead_units, list_constants
from edgeprune.plan.readings import Readings, watch_layers, watch_shifted
from edgeprune.prune import remove_channels
from edgeprune.recipe import Recipe
from edgeprune.results import ChannelPlan

_BATCH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadSet:
    """Channels that make no difference, as far as was seen, and the network without those that can go.

    Attributes:
        what: how they were seen to make none, for the end of "channels that are ...".
        groups: one entry a group.
        plan: what stays.
        network: in evaluation mode.
    """

    what: str
    groups: tuple[DeadUnits, ...]
    plan: ChannelPlan
    network: nn.Module


def list_dead_sets(recipe: Recipe, network: nn.Module, dataset: Dataset, reporter: Reporter) -> Iterator[DeadSet]:
    """Sets of dead channels: constant on train images, with a margin; on val images too; zero on all of them.

    Args:
        recipe: scope, protected modules, alignment, normalisation.
        network: not changed.
        dataset: val images are looked at only when a second set is asked for.
        reporter: is told progress.

    Yields:
        One set at least; no set is larger than the one before.

    Raises:
        InputError: the census finds nothing to prune.
    """
    groups = count_groups(recipe, network)
    absorbers = find_absorbers(network, next(_images(recipe, dataset.train))[:1])

    def judge(readings: Readings, what: str, *, zeros_only: bool = False) -> DeadSet:
        found = find_dead_units(
            network, groups, readings, absorbers=absorbers, align=recipe.prune.align, zeros_only=zeros_only
        )
        constants = list_constants(groups, found, readings, absorbers=absorbers)
        return _remove(recipe, absorb_constants(network, constants, absorbers), groups, found, what=what)

    with reporter.track("looking for dead channels") as progress:
        readings = _watch(recipe, network, groups, dataset.train, progress)
    found = judge(readings, "constant on train")
    yield found
    readings = watch_layers(network, groups, _images(recipe, dataset.val), before=readings)
    yield judge(readings, "constant on train and val")
    yield judge(readings, "zero on train and val", zeros_only=True)


def largest_difference(logits: np.ndarray, reference: np.ndarray) -> float:
    """Largest absolute difference; a very large number where either holds one that is not finite.

    Args:
        logits, reference: shape (n, classes).
    """
    with np.errstate(invalid="ignore"):
        difference = float(np.abs(logits.astype(np.float64) - reference.astype(np.float64)).max())
    return difference if np.isfinite(difference) else DIVERGED


def _watch(
    recipe: Recipe, network: nn.Module, groups: tuple[ChannelGroup, ...], train: PackedSplit, progress: Progress
) -> Readings:
    total, done = 3 * len(train.labels), 0  # as they are, shifted up, shifted down

    def images() -> Iterator[Tensor]:
        nonlocal done
        for batch in _images(recipe, train):
            yield batch
            done += len(batch)
            progress(done, total)

    readings = watch_layers(network, groups, images())
    # Wherever the constant could be kept, and whatever the alignment: all that may be dead is put to the test.
    suspects = find_dead_units(network, groups, readings, absorbers=readings, align=1)
    channels = {units.layer: (*units.zero, *units.constant) for units in suspects}
    if not any(channels.values()):
        progress(total, total)
        return readings
    return watch_shifted(network, groups, images, readings=readings, channels=channels)


def _remove(
    recipe: Recipe, network: nn.Module, groups: tuple[ChannelGroup, ...], found: tuple[DeadUnits, ...], *, what: str
) -> DeadSet:
    prunable = sum(group.channels for group in groups)
    plan = ChannelPlan(
        target=sum(len(units.gone) for units in found) / prunable,
        prunable=prunable,
        groups=tuple(units.plan for units in found),
        importance="dead",
        align=recipe.prune.align,
    )
    small = remove_channels(network, groups, plan, image_size=recipe.data.image_size)
    return DeadSet(what=what, groups=found, plan=plan, network=small)


def _images(recipe: Recipe, split: PackedSplit) -> Iterator[Tensor]:
    batches = iterate_batches(split, batch_size=_BATCH, mean=recipe.data.mean, std=recipe.data.std)
    return (images for images, _ in batches)
