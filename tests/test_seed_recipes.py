"""The six runs of the seed log are shipped as recipes; every value that the log states has a line of its own.

The log's run 1 lost two values on their way to the code, so what a recipe says is checked where it is written down too.
"""

from pathlib import Path

import pytest

from edgeprune.recipe import Recipe, read_recipe

RECIPES = Path(__file__).parent.parent / "recipes"
RUNS = (1, 2, 3, 4, 5, 6)


def recipe_of_run(run: int) -> Recipe:
    return read_recipe(RECIPES / f"seed-run{run}.yaml")


@pytest.mark.parametrize("run", RUNS)
def test_what_all_six_runs_share(run: int) -> None:
    """One network, one baseline, one scope: only then can the runs be compared."""
    recipe = recipe_of_run(run)
    assert recipe.name == f"seed-run{run}"
    assert recipe.goal != ""
    assert recipe.data.source == "imagefolder"
    assert recipe.data.path is None
    assert recipe.data.image_size == 96
    assert recipe.model.network == "mobilenet_v3_small"
    assert recipe.model.pad == "torch"
    assert recipe.model.baseline == "models/student_mbv3s_vww96"
    assert recipe.prune.scope == "expand"
    assert recipe.prune.protect == ("features.1", "features.2", "features.3")
    assert recipe.prune.align == 1
    assert recipe.prune.max_drop is None
    assert recipe.recalibrate.split == "val"


def test_run_1_has_the_values_that_really_took_effect() -> None:
    """Alpha and temperature are what the code used, not what its author meant."""
    recipe = recipe_of_run(1)
    assert recipe.goal == "first run of pruning pipeline"
    assert recipe.prune.targets == (0.10, 0.20)
    assert recipe.prune.importance == "bn_gamma"
    assert recipe.prune.min_accuracy == 0.8562
    assert recipe.recover.alpha == 0.5
    assert recipe.recover.temperature == 4
    assert recipe.recover.epochs == 4
    assert recipe.recover.patience == 4
    assert recipe.recover.lr == 0.0001
    assert recipe.recover.lr_high == 0.00005
    assert recipe.recover.lr_high_threshold == 0.25


def test_run_2_recovers_longer_from_a_lower_threshold() -> None:
    recipe = recipe_of_run(2)
    assert recipe.goal == "more fine-tune time since there seems to be more headroom"
    assert recipe.prune.targets == (0.10, 0.15, 0.20, 0.25)
    assert recipe.prune.importance == "bn_gamma"
    assert recipe.prune.min_accuracy == 0.8517
    assert recipe.recover.alpha == 0.55
    assert recipe.recover.temperature == 3
    assert recipe.recover.epochs == 10
    assert recipe.recover.patience == 4
    assert recipe.recover.lr == 0.0001
    assert recipe.recover.lr_high == 0.00005
    assert recipe.recover.lr_high_threshold == 0.25


def test_run_3_takes_smaller_steps_at_lower_rates() -> None:
    recipe = recipe_of_run(3)
    assert recipe.goal == "tune params to recovery better and try lower target steps (to reduce single step shock)"
    assert recipe.prune.targets == (0.10, 0.12, 0.15, 0.20, 0.22, 0.25, 0.27, 0.30)
    assert recipe.prune.importance == "bn_gamma"
    assert recipe.prune.min_accuracy == 0.84
    assert recipe.recover.alpha == 0.5
    assert recipe.recover.temperature == 4
    assert recipe.recover.epochs == 12
    assert recipe.recover.patience == 5
    assert recipe.recover.lr == 0.00007
    assert recipe.recover.lr_high == 0.00003
    assert recipe.recover.lr_high_threshold == 0.21


def test_run_4_adds_a_step_at_17_percent_and_raises_the_first_rate() -> None:
    recipe = recipe_of_run(4)
    assert recipe.goal == recipe_of_run(3).goal
    assert recipe.prune.targets == (0.10, 0.12, 0.15, 0.17, 0.20, 0.22, 0.25, 0.27, 0.30)
    assert recipe.recover.lr == 0.0001
    assert recipe.recover.lr_high == 0.00003
    assert recipe.recover.lr_high_threshold == 0.21
    assert changed_sections(3, 4) == {"name", "prune", "recover"}


def test_run_5_ranks_by_the_norm_of_the_weights() -> None:
    recipe = recipe_of_run(5)
    assert recipe.goal == "change to l1_norm importance"
    assert recipe.prune.targets == (0.10, 0.15, 0.20, 0.25, 0.27, 0.30)
    assert recipe.prune.importance == "l1_norm"
    assert changed_sections(4, 5) == {"name", "goal", "prune"}


def test_run_6_goes_on_to_80_percent_in_steps_of_5_with_10_epochs() -> None:
    recipe = recipe_of_run(6)
    assert recipe.goal == "same, but with higher target"
    assert recipe.prune.targets == tuple(percent / 100 for percent in range(10, 85, 5))
    assert recipe.prune.importance == "l1_norm"
    assert recipe.recover.epochs == 10
    assert changed_sections(5, 6) == {"name", "goal", "prune", "recover"}


def changed_sections(earlier: int, later: int) -> set[str]:
    """Keys of the recipe that differ: a slip in a value that both runs should share shows here."""
    before, after = recipe_of_run(earlier).model_dump(), recipe_of_run(later).model_dump()
    return {key for key in before if before[key] != after[key]}
