"""What a prune run would do, without doing it."""

import time
from dataclasses import dataclass, replace

from edgeprune.errors import UnreachableTargetError
from edgeprune.pipeline.baseline import Baseline
from edgeprune.pipeline.planning import count_groups, plan_target, score_groups
from edgeprune.pipeline.settings import recover
from edgeprune.recipe import Recipe
from edgeprune.results import ChannelPlan
from edgeprune.schedule import plan_steps, schedule_up_to


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Plans of the targets that can be reached, and one sentence for each that cannot."""

    plans: tuple[ChannelPlan, ...]
    unreachable: tuple[str, ...]


def preview_plans(recipe: Recipe, baseline: Baseline, *, target: float | None) -> Preview:
    """What each target would leave if all went at once from the unpruned weights; recovery changes later rankings."""
    network, prune = baseline.checkpoint.network, recipe.prune
    groups = count_groups(recipe, network)
    scores = score_groups(recipe, network, groups, baseline.dataset, seed=recipe.seed)
    prunable = sum(group.channels for group in groups)
    plans, unreachable = [], []
    for step in schedule_up_to(plan_steps(prune.schedule, prune.targets, prune.steps), target):
        try:
            plans.append(plan_target(recipe, groups, scores, step, prunable=prunable))
        except UnreachableTargetError as error:
            unreachable.append(error.problem)
    return Preview(plans=tuple(plans), unreachable=tuple(unreachable))


def estimate_seconds(recipe: Recipe, baseline: Baseline, *, levels: int) -> float:
    """Upper bound of a schedule's wall time here, from a few training steps of the unpruned network.

    Args:
        recipe: its recovery is estimated.
        baseline: student and teacher of the trial.
        levels: how many would be made.
    """
    train, network, epochs = baseline.dataset.train, baseline.checkpoint.network, recipe.recover.epochs
    few = min(len(train.labels), 4 * recipe.recover.batch_size)
    trial = replace(
        baseline.dataset,
        train=train.first(few),
    )
    began = time.perf_counter()
    recover(recipe, network, teacher=network, dataset=trial, lr=recipe.recover.lr, seed=recipe.seed, epochs=1)
    evaluation = baseline.dense.val.seconds
    per_image = max(time.perf_counter() - began - evaluation, 0.0) / few
    return levels * epochs * (per_image * len(train.labels) + evaluation)
