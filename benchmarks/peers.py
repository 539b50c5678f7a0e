"""A recipe's network cut to a share of its multiply-accumulates: ours, Torch-Pruning's pruners, and at random.

Shared by ``accuracy_at_macs.py`` and ``latency_at_macs.py``; nothing to run here.

Everyone gets the whole network to prune (every shared channel but the classes), the same train images where gradients
are looked at, and one cut. Torch-Pruning's pruners have no budget: their global ratio is searched until the network has
at most as many MACs, and the largest such network is taken.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch_pruning
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.nn import functional

from edgeprune.budget import Budget
from edgeprune.data import Dataset
from edgeprune.pipeline.baseline import open_dataset
from edgeprune.pipeline.planning import count_groups, sample_batches, score_groups
from edgeprune.pipeline.workspace import SilentReporter, Workspace
from edgeprune.plan.budget import solve_budget
from edgeprune.plan.cost_model import trace_costs
from edgeprune.prune import remove_channels
from edgeprune.recipe import Recipe
from edgeprune.zoo import load_checkpoint

# Halvings of the interval in which a global ratio is searched: finer than one channel of any layer.
_HALVINGS = 12


class UnreachedError(Exception):
    """A pruner without a ratio that is small enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is cut: a recipe's baseline, and its images."""

    recipe: Recipe
    dataset: Dataset
    dense: nn.Module
    dense_macs: int


def open_subject(recipe: Recipe) -> Subject:
    """The recipe's data set and its trained baseline in models/."""
    workspace = Workspace(Path())
    dataset = open_dataset(recipe, workspace, SilentReporter())
    dense = load_checkpoint(workspace.baseline_folder(recipe), own_factory=recipe.model.network).network
    return Subject(
        recipe=recipe,
        dataset=dataset,
        dense=dense,
        dense_macs=count_macs(dense, recipe.data.image_size),
    )


def count_macs(network: nn.Module, image_size: int) -> int:
    """Multiply-accumulates of one image, counter fvcore."""
    analysis = FlopCountAnalysis(network.eval(), torch.zeros(1, 3, image_size, image_size))
    return int(analysis.unsupported_ops_warnings(enabled=False).uncalled_modules_warnings(enabled=False).total())


def cut_ours(subject: Subject, macs: int, seed: int) -> nn.Module:
    """The recipe's importance, and the budget's solver with one bound; aligned as the recipe says."""
    recipe, network = subject.recipe, subject.dense
    size = recipe.data.image_size
    groups = count_groups(recipe, network)
    solution = solve_budget(
        score_groups(recipe, network, groups, subject.dataset, seed=seed),
        trace_costs(network, groups, image_size=size),
        budget=Budget(macs=macs),
        importance=recipe.prune.importance,
        align=recipe.prune.align,
        units={group.layer: group.unit for group in groups},
    )
    return remove_channels(network, groups, solution.plan, image_size=size)


def cut_theirs(
    pruner: type[torch_pruning.pruner.BasePruner],
    importance: Callable[[], torch_pruning.importance.Importance],
    *,
    gradients: bool = False,
    everywhere_alike: bool = False,
    round_to: int | None = None,
) -> Callable[[Subject, int, int], nn.Module]:
    """One of Torch-Pruning's pruners with its own ratio searched; ``everywhere_alike`` is one ratio for all layers."""

    def cut(subject: Subject, macs: int, seed: int) -> nn.Module:
        size = subject.recipe.data.image_size
        image = torch.zeros(1, 3, size, size)

        def at(ratio: float) -> nn.Module:
            torch.manual_seed(seed)
            small = copy.deepcopy(subject.dense).eval()
            if gradients:
                _add_gradients(subject, small)
            pruner(
                small,
                image,
                importance=importance(),
                global_pruning=not everywhere_alike,
                pruning_ratio=ratio,
                ignored_layers=[[module for module in small.modules() if isinstance(module, nn.Linear)][-1]],
                round_to=round_to,
            ).step()
            small.zero_grad(set_to_none=True)
            return small

        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if count_macs(at(middle), size) <= macs else (middle, high)
        small = at(high)
        if count_macs(small, size) > macs:
            raise UnreachedError(f"no ratio comes down to {macs:,} MACs")
        return small

    return cut


def _add_gradients(subject: Subject, network: nn.Module) -> None:
    for images, labels in sample_batches(subject.recipe, subject.dataset):
        functional.cross_entropy(network(images), labels).backward()


_pruner, _importance = torch_pruning.pruner, torch_pruning.importance
PEERS: dict[str, Callable[[Subject, int, int], nn.Module]] = {
    "TP Magnitude": cut_theirs(_pruner.MagnitudePruner, lambda: _importance.MagnitudeImportance(p=1)),
    "TP GroupNorm": cut_theirs(_pruner.GroupNormPruner, lambda: _importance.GroupMagnitudeImportance(p=2)),
    "TP BNScale": cut_theirs(_pruner.BNScalePruner, _importance.BNScaleImportance),
    "TP Taylor": cut_theirs(_pruner.BasePruner, _importance.GroupTaylorImportance, gradients=True),
    "random": cut_theirs(_pruner.BasePruner, _importance.RandomImportance, everywhere_alike=True),
}
