"""Which budget counts: typed, the recipe's, a device's."""

from pathlib import Path

import pytest

from edgeprune.budget import Budget, parse_budget
from edgeprune.cli.options import read_bounds
from edgeprune.devices import load_device
from edgeprune.errors import InputError
from edgeprune.pipeline import choose_bounds
from edgeprune.recipe import Recipe, parse_recipe

BOARD = "stm32f746"
NPU = "ensemble_e3"


def recipe_of(**sections: object) -> Recipe:
    return parse_recipe({"name": "tiny", **sections}, origin="tiny.yaml")


def with_device(device: str, **sections: object) -> Recipe:
    return recipe_of(export={"device": device}, **sections)


def test_options_and_text_are_one_budget() -> None:
    assert read_bounds(None) is None
    assert (
        read_bounds("ram=64KB macs=4M")
        == read_bounds("ram=64KB", macs="4M")
        == read_bounds(None, ram="64KB", macs="4M")
    )


def test_a_bound_in_both_is_refused() -> None:
    with pytest.raises(InputError, match=r"ram is bounded twice: 3KB by --budget, 64KB by --max-ram\."):
        read_bounds("ram=3KB", ram="64KB")


def test_what_is_typed_wins_over_the_recipe() -> None:
    recipe = recipe_of(budget={"macs": "4M", "params": 400_000})
    assert choose_bounds(recipe, typed=None, device=None, target=0.6)[1] == Budget(macs=4_000_000, params=400_000)
    assert choose_bounds(recipe, typed=parse_budget("ram=64KB"), device=None, target=None)[1] == Budget(
        ram_bytes=64_000
    )


def test_none_takes_the_recipes_budget_away() -> None:
    recipe = recipe_of(budget={"macs": "4M"})
    assert choose_bounds(recipe, typed=parse_budget("none"), device=None, target=0.6) == (recipe, None)


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"ram": "64kb"}, "has the unit 'kb'"),
        ({"macs": 0}, "is not above 0"),
        ({"flash": 300_000}, "has no unit"),
        ({"rom": "64KB"}, "budget.rom|unknown key"),
    ],
)
def test_a_budget_that_the_recipe_gets_wrong_is_refused(section: dict[str, object], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        recipe_of(budget=section)


def test_a_device_alone_is_the_budget_less_its_reserves() -> None:
    profile = load_device(BOARD)
    assert profile.ram_bytes is not None
    assert profile.flash_bytes is not None
    recipe, budget = choose_bounds(with_device(BOARD), typed=None, device=BOARD, target=None)
    assert budget == Budget(
        flash_bytes=profile.flash_bytes - profile.kernel_bytes,
        arena_bytes=profile.ram_bytes - profile.reserve_bytes,
        device=BOARD,
    )
    assert budget.level.endswith(f"-{BOARD}")
    assert recipe == with_device(BOARD)


def test_a_device_tightens_what_is_typed() -> None:
    typed = parse_budget("flash=9MB ram=64KB")
    budget = choose_bounds(with_device(BOARD), typed=typed, device=None, target=None)[1]
    assert budget is not None
    assert budget.ram_bytes == 64_000
    assert budget.flash_bytes is not None
    assert budget.flash_bytes < 1_048_576


def test_a_device_with_a_target_or_from_the_recipe_is_no_budget() -> None:
    """`make export TARGET=0.6 DEVICE=...` asks whether that level fits; a recipe's device asks it at every export."""
    assert choose_bounds(with_device(BOARD), typed=None, device=BOARD, target=0.6)[1] is None
    assert choose_bounds(with_device(BOARD), typed=None, device=None, target=None)[1] is None


def test_levels_of_a_device_are_kept_in_its_blocks_and_levels_of_a_target_are_not() -> None:
    alignment = load_device(NPU).alignment
    assert alignment == 16
    assert choose_bounds(with_device(NPU), typed=None, device=NPU, target=None)[0].prune.align == alignment
    both = choose_bounds(with_device(NPU), typed=parse_budget("macs=4M"), device=NPU, target=0.6)
    assert both[0].prune.align == 8


def test_a_device_without_figures_cannot_be_a_budget(tmp_path: Path) -> None:
    path = tmp_path / "bare.toml"
    path.write_text(
        'id = "bare"\nboard = "Bare"\ncore = "cortex-m4"\nruntimes = ["tflite_micro"]\noperators = "tflite_micro"\n'
        '[sources]\ncore = "a data sheet"\nruntimes = "a data sheet"\n'
    )
    with pytest.raises(InputError, match="publishes neither RAM nor flash"):
        choose_bounds(with_device(str(path)), typed=None, device=str(path), target=None)
