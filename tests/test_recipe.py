"""The recipe: strict about keys, types and ranges, equal after a round trip, and digested by value."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.errors import InputError
from edgeprune.recipe import PruneSection, Recipe, RecoverSection, parse_recipe, read_recipe
from edgeprune.schedule import level_id, parse_target, schedule_up_to

targets = st.lists(st.integers(1, 999), min_size=1, max_size=8, unique=True).map(
    lambda permille: tuple(sorted(value / 1000 for value in permille))
)
recipes = st.builds(
    Recipe,
    name=st.from_regex(r"[a-z][a-z0-9_-]{0,39}", fullmatch=True),
    goal=st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\n\t:#'\"")),
    seed=st.integers(0, 2**31 - 1),
    prune=st.builds(
        PruneSection,
        targets=targets,
        protect=st.lists(st.sampled_from(["features.1", "yes", "1e3", "null"]), max_size=3).map(tuple),
        min_accuracy=st.none() | st.floats(0, 1),
    ),
    recover=st.builds(
        RecoverSection, lr=st.floats(0, 1, exclude_min=True), alpha=st.floats(0, 1), epochs=st.integers(1, 50)
    ),
)


def check(**values: Any) -> Recipe:
    return parse_recipe({"name": "tiny", **values}, origin="tiny.yaml")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@given(recipes)
def test_a_recipe_written_out_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    """config.yaml beside a result must make that result again."""
    path = write(tmp_path_factory.getbasetemp() / "recipe.yaml", recipe.to_yaml())
    again = read_recipe(path)
    assert again == recipe
    assert again.digest == recipe.digest


@pytest.mark.parametrize("other", [{"alpha": 0.5}, {"labelled_share": 0.3}])
def test_classes_are_not_weighed_twice_or_in_vain(other: dict[str, float]) -> None:
    extra = {"teacher": "teacher.onnx"} if "alpha" in other else {}
    with pytest.raises(InputError, match="class_weights"):
        check(train={"class_weights": True, **other}, **extra)


def test_every_default_is_written_out() -> None:
    """A later version with other defaults must not change what an old recipe meant."""
    written = yaml.safe_load(check().to_yaml())
    assert written["recover"]["temperature"] == 4.0
    assert set(written) == set(Recipe.model_fields)
    for name, field in Recipe.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            assert set(written[name]) == set(field.annotation.model_fields)


def test_comments_and_the_order_of_keys_do_not_change_the_digest(tmp_path: Path) -> None:
    one = read_recipe(write(tmp_path / "1.yaml", "name: a\nseed: 3\nrecover: {lr: 0.1, epochs: 2}\n"))
    two = read_recipe(write(tmp_path / "2.yaml", "# x\nrecover:\n  epochs: 2\n  lr: 0.1\nseed: 3\nname: a\n"))
    assert one.digest == two.digest
    assert one.digest != read_recipe(write(tmp_path / "3.yaml", "name: a\nseed: 4\n")).digest


def test_a_part_digest_depends_on_its_sections_and_the_seed_only() -> None:
    """Another limit of a gate must not make anybody train again."""
    plain = check()
    assert plain.part_digest("data", "train") == check(verify={"min_agreement": 0.9}).part_digest("data", "train")
    assert plain.part_digest("data", "train") != check(train={"epochs": 1}).part_digest("data", "train")
    assert plain.part_digest("data", "train") != check(seed=1).part_digest("data", "train")
    assert plain.part_digest("data") != plain.part_digest("train")


@pytest.mark.parametrize(
    ("values", "key", "nearest"),
    [
        ({"recover": {"alfa": 0.5}}, r"`alfa` in `recover`", "`alpha`"),
        ({"recover": {"temprature": 3}}, r"`temprature` in `recover`", "`temperature`"),
        ({"prune": {"target": [0.1]}}, r"`target` in `prune`", "`targets`"),
        ({"recovery": {}}, r"`recovery`\.", "`recover`"),
        ({"data": {"zzz": 1}}, r"`zzz` in `data`", "one of: source, path"),
    ],
)
def test_an_unknown_key_is_an_error_with_the_nearest_known_one(values: dict[Any, Any], key: str, nearest: str) -> None:
    """The seed log lost a run to values that never arrived."""
    with pytest.raises(InputError, match=rf"tiny\.yaml: unknown key {key}") as caught:
        parse_recipe({"name": "tiny", **values}, origin="tiny.yaml")
    assert nearest in caught.value.remedy


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"recover": {"alpha": math.nan}}, "recover.alpha = nan"),
        ({"recover": {"alpha": 1.5}}, "recover.alpha = 1.5"),
        ({"recover": {"temperature": 0}}, "recover.temperature = 0"),
        ({"recover": {"lr": math.inf}}, "recover.lr = inf"),
        ({"recover": {"lr": "0.1"}}, "recover.lr = '0.1'"),
        ({"recover": {"epochs": 0}}, "recover.epochs = 0"),
        ({"recover": {"epochs": 2.5}}, "recover.epochs = 2.5"),
        ({"recover": {"epochs": True}}, "recover.epochs = True"),
        ({"data": {"skip_broken": "yes"}}, "data.skip_broken = 'yes'"),
        ({"data": {"source": "ELPV"}}, "data.source = 'ELPV'"),
        ({"data": {"image_size": 8}}, "data.image_size = 8"),
        ({"data": {"mean": [0.5, 0.5]}}, r"data.mean.2"),
        ({"data": {"std": [0.5, 0.0, 0.5]}}, "std must be positive"),
        ({"data": {"val_fraction": 0.6, "test_fraction": 0.4}}, "must leave images to train on"),
        ({"data": None}, "data = None"),
        ({"prune": {"targets": []}}, "prune.targets"),
        ({"prune": {"targets": [60]}}, r"prune.targets.0 = 60"),
        ({"prune": {"targets": [0.1, 1.0]}}, r"prune.targets.1 = 1.0"),
        ({"prune": {"targets": [0.2, 0.1]}}, "targets must rise"),
        ({"prune": {"targets": [0.2, 0.2]}}, "targets must rise"),
        ({"prune": {"align": 3}}, "prune.align = 3"),
        ({"prune": {"importance": "l2"}}, "prune.importance = 'l2'"),
        ({"name": "Über Name"}, "name = 'Über Name'"),
        ({"name": "../evil"}, "name = '../evil'"),
        ({"seed": -1}, "seed = -1"),
        ({1: 2}, "Keys should be strings"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_key(values: dict[str, Any], where: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_recipe({"name": "tiny", **values}, origin="tiny.yaml")
    assert where in caught.value.problem
    assert caught.value.problem.startswith("tiny.yaml: ")
    assert caught.value.exit_code == 2


def test_targets_that_share_a_level_are_refused() -> None:
    """Levels are folders: the second one would overwrite the first."""
    assert level_id(0.1) == level_id(0.1000000001)
    with pytest.raises(InputError, match="targets must rise"):
        check(prune={"targets": [0.1, 0.1000000001]})


def test_whole_numbers_may_stand_for_fractions() -> None:
    assert check(recover={"temperature": 3, "alpha": 1}).recover.temperature == 3.0


def test_a_recipe_without_a_name_says_which_key_is_missing() -> None:
    with pytest.raises(InputError, match="the key `name` is missing"):
        parse_recipe({"seed": 1}, origin="tiny.yaml")


def test_a_missing_recipe_lists_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "elpv96.yaml", "name: elpv96\n")
    with pytest.raises(InputError, match=r"elpv\.yaml does not exist") as caught:
        read_recipe(tmp_path / "elpv.yaml")
    assert "elpv96.yaml" in caught.value.remedy
    with pytest.raises(InputError, match="does not exist"):
        read_recipe(tmp_path / "nowhere" / "elpv.yaml")


@pytest.mark.parametrize("text", ["", "- a\n", "just words", "name: [unclosed", "\tname: a"])
def test_what_is_no_mapping_is_an_error_and_no_traceback(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError):
        read_recipe(write(tmp_path / "a.yaml", text))


def test_a_folder_or_binary_file_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(InputError, match="cannot be read"):
            read_recipe(path)


def test_yaml_tags_run_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", f"name: !!python/object/apply:os.mkdir ['{tmp_path / 'evil'}']\n")
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(path)
    assert not (tmp_path / "evil").exists()


def test_data_and_weights_replace_the_recipes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "name: a\ndata: {source: elpv, image_size: 32}\n")
    recipe = read_recipe(path, data_path="photos", weights="none")
    assert (recipe.data.source, recipe.data.path, recipe.data.image_size) == ("imagefolder", "photos", 32)
    assert recipe.model.weights == "none"
    assert recipe.model.network == Recipe(name="a").model.network


def test_data_and_weights_fill_empty_sections(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path / "a.yaml", "name: a\ndata:\nmodel:\n"), data_path="photos", weights="none")
    assert (recipe.data.path, recipe.model.weights) == ("photos", "none")


@pytest.mark.parametrize("section", ["elpv", "[1]", "0"])
def test_data_given_on_top_of_a_damaged_section_names_the_section(tmp_path: Path, section: str) -> None:
    for name in ("data", "model"):
        path = write(tmp_path / "a.yaml", f"name: a\n{name}: {section}\n")
        with pytest.raises(InputError, match=f": {name} = "):
            read_recipe(path, data_path="photos", weights="none")


@pytest.mark.parametrize("text", ["60", "0", "1", "-0.1", "1.5", "inf", "-inf", "nan"])
def test_a_target_outside_the_unit_interval_is_refused_with_its_value(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_target(text)
    assert caught.value.problem == f"TARGET={text} is outside (0, 1)."
    assert caught.value.exit_code == 2


def test_a_percentage_is_understood_and_corrected() -> None:
    with pytest.raises(InputError) as caught:
        parse_target("60")
    assert caught.value.remedy == "TARGET=0.6 (a fraction of the prunable channels, not a percentage)"


@pytest.mark.parametrize("text", ["abc", "", "0,6", "60%"])
def test_a_target_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a number"):
        parse_target(text)


@pytest.mark.parametrize(
    ("target", "level"),
    [(0.6, "s60"), (0.605, "s60_5"), (0.05, "s05"), (0.001, "s00_1"), (0.29, "s29"), (0.57, "s57"), (0.999, "s99_9")],
)
def test_level_names(target: float, level: str) -> None:
    """0.29 * 100 is 28.999999999999996 in floating point."""
    assert level_id(target) == level


@given(st.lists(st.integers(1, 999), min_size=2, max_size=2, unique=True))
def test_different_targets_have_different_levels(permille: list[int]) -> None:
    assert level_id(permille[0] / 1000) != level_id(permille[1] / 1000)


@given(targets, st.integers(1, 999))
def test_a_target_truncates_the_schedule_and_ends_it(schedule: tuple[float, ...], permille: int) -> None:
    target = permille / 1000
    cut = schedule_up_to(schedule, target)
    assert cut == (*(step for step in schedule if step < target), target)


def test_without_a_target_the_schedule_is_whole() -> None:
    assert schedule_up_to((0.1, 0.2), None) == (0.1, 0.2)


def test_a_target_that_differs_by_rounding_is_the_step_itself() -> None:
    """0.1 + 0.2 is typed by nobody, but scripts compute it."""
    assert schedule_up_to((0.2, 0.3, 0.4), 0.1 + 0.2) == (0.2, 0.1 + 0.2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: a\nrecover: {alpha: 0.5, alpha: 0.9}\n", "stands twice"),
        ("name: a\nprune: &loop {targets: *loop}\n", "alias"),
        ("[" * 5000, "cannot be read"),
        ("goal: 2026-13-01", "month must be in 1..12"),
    ],
)
def test_what_yaml_would_let_pass_is_an_error(tmp_path: Path, text: str, reason: str) -> None:
    """The last of two equal keys wins in YAML, silently: the run is not the one that was written down."""
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=reason):
        read_recipe(tmp_path / "recipe.yaml")


def test_1e_minus_4_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: a\nrecover: {lr: 1e-4}\n", encoding="utf-8")
    assert read_recipe(tmp_path / "recipe.yaml").recover.lr == 1e-4


@pytest.mark.parametrize("name", ["tiny-s30", "tiny-s60_5", "tiny-dense"])
def test_a_name_that_ends_like_a_level_is_refused(tmp_path: Path, name: str) -> None:
    """Its baseline would lie in the folder of another recipe's level."""
    (tmp_path / "recipe.yaml").write_text(f"name: {name}\n", encoding="utf-8")
    with pytest.raises(InputError, match="ends like a level"):
        read_recipe(tmp_path / "recipe.yaml")
