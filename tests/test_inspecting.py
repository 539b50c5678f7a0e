"""`edgeprune census` and `edgeprune sensitivity`: what can be pruned, what it is worth, and how much it hurts."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Ask, call_edgeprune, run_python
from tiny import make_images, write_recipe

from edgeprune.audit import audit_cost
from edgeprune.batchnorm import recalibrate_batchnorm
from edgeprune.data import sample_images
from edgeprune.errors import InputError
from edgeprune.evaluation import DIVERGED, evaluate_network, predict_logits
from edgeprune.pipeline import (
    Sensitivity,
    SilentReporter,
    Workspace,
    census_of_network,
    census_of_recipe,
    measure_sensitivity,
    open_baseline,
)
from edgeprune.pipeline.planning import count_groups, score_groups
from edgeprune.pipeline.records import RECORD, Inputs, load_record
from edgeprune.pipeline.sensitivity import PICTURE, TABLE, TEXT, mean_divergence, open_sensitivity
from edgeprune.pipeline.sensitivity_picture import draw_sensitivity
from edgeprune.pipeline.sensitivity_table import Cell, GroupRow, SensitivityRecord, render_table, sensitivity_factors
from edgeprune.prune import remove_channels
from edgeprune.recipe import Recipe, read_recipe
from edgeprune.results import Accuracy, ChannelPlan, GroupPlan
from edgeprune.zoo import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

GROUP = "features.4.block.0.0"  # 96 channels
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a baseline. Shared: tests that change something copy it."""
    root = tmp_path_factory.mktemp("trained") / "project"
    make_images(root / "images", per_class=24)
    # Only the two widest layers: cells are what takes time here.
    protect = [f"features.{index}" for index in (1, 2, 3, 5, 6, 7, 8, 9, 10)]
    write_recipe(root / "tiny.yaml", Path("images"), train={"epochs": 1}, prune={"protect": protect})
    assert call_edgeprune("train", "tiny.yaml", at=root) == 0
    return root


@pytest.fixture
def project(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, and the current folder."""
    root = Path(shutil.copytree(trained, tmp_path / "project"))
    monkeypatch.chdir(root)
    return root


def open_recipe() -> Recipe:
    return read_recipe(Path("tiny.yaml"))


def without(recipe: Recipe, removed: dict[str, list[int]]) -> torch.nn.Module:
    """The baseline without some channels of its groups."""
    network = load_checkpoint(Path("models/tiny")).network
    groups = count_groups(recipe, network)
    kept = [
        GroupPlan(layer=layer, channels=group.channels, kept=tuple(sorted(set(range(group.channels)) - set(gone))))
        for layer, gone in removed.items()
        for group in groups
        if group.layer == layer
    ]
    plan = ChannelPlan(target=0.5, prunable=1, groups=tuple(kept), importance="l1_norm", align=8)
    return remove_channels(network, groups, plan, image_size=32)


# Census


def test_a_share_is_what_surgery_takes_away(project: Path) -> None:
    """Prices come from a formula; here the network is really cut and counted again."""
    recipe = open_recipe()
    found = census_of_recipe(recipe, Workspace(Path()))
    whole = audit_cost(load_checkpoint(project / "models/tiny").network, image_size=32)
    assert (found.cost.params, found.cost.macs) == (whole.params, whole.macs)
    assert [group.layer for group in found.groups] == [GROUP, "features.11.block.0.0"]
    price = next(price for price in found.prices if price.layer == GROUP)
    half = audit_cost(without(recipe, {GROUP: list(range(48))}), image_size=32)
    assert whole.params - half.params == pytest.approx(0.5 * price.params_share * whole.params)
    assert whole.macs - half.macs == pytest.approx(0.5 * price.macs_share * whole.macs)


def test_groups_together_reach_what_is_gone_without_them(project: Path) -> None:
    found = census_of_recipe(open_recipe(), Workspace(Path()))
    assert found.params_share == pytest.approx(sum(price.params_share for price in found.prices))
    everything = census_of_network("resnet18", image_size=32, classes=10, scope="all", align=8)
    # Residual partners share the weights between them: a sum would count those twice.
    assert sum(price.params_share for price in everything.prices) > everything.params_share > 0.99
    assert 0 < everything.ram_share <= 1


def test_the_census_lists_groups_what_stays_and_what_is_reached(ask: Ask, project: Path) -> None:
    answer = ask("census", "tiny.yaml", at=project)
    assert (answer.code, answer.err) == (0, "")
    (row,) = (line.split() for line in answer.out.splitlines() if line.startswith(f" {GROUP} "))
    assert row[1:6] == ["features.4.block.0.1", "and", "5", "more", "96"]
    assert "left alone: features.2.block.0.0, features.2.block.2.0: features.2 is protected" in answer.out
    assert "left alone: classifier.3: no layer reads them" in answer.out
    assert "scope expand: 2 groups of 672 channels reach " in answer.out
    assert "Peak RAM as int8 is " in answer.out


def test_json_names_every_coupled_layer(ask: Ask, project: Path) -> None:
    answer = ask("census", "tiny.yaml", "--align", "16", "--json", at=project)
    assert (answer.code, answer.err) == (0, "")
    values = json.loads(answer.out)
    group = values["groups"][0]
    assert (group["layer"], group["channels"], group["unit"], group["block"]) == (GROUP, 96, 1, 16)
    assert {(each["layer"].removeprefix("features.4.block."), each["side"]) for each in group["coupled"]} == {
        *{("0.0", "out"), ("0.1", "out"), ("1.0", "out"), ("1.1", "out")},
        *{("2.fc2", "out"), ("2.fc1", "in"), ("3.0", "in")},
    }
    assert values["reached"]["channels"] == 96 + 576
    assert values["left_alone"]["classifier.3"].startswith("no layer reads them")


def test_a_network_by_name_needs_no_recipe_and_no_images(ask: Ask, tmp_path: Path) -> None:
    answer = ask("census", "--network", "resnet18", "--image-size", "64", "--json", at=tmp_path)
    assert (answer.code, answer.err) == (0, "")
    values = json.loads(answer.out)
    assert values["cost"]["params"] == 11_689_512  # as torchvision publishes it, with 1000 classes
    assert values["scope"] == "all"
    coupled = {group["layer"]: {each["layer"] for each in group["coupled"]} for group in values["groups"]}
    assert {"conv1", "layer1.0.conv2", "layer1.1.conv2", "layer2.0.downsample.0"} <= coupled["conv1"]
    assert list(tmp_path.iterdir()) == []


def test_a_level_has_a_census_of_its_own(ask: Ask, project: Path) -> None:
    checkpoint = load_checkpoint(project / "models/tiny")
    (project / "models/tiny-s30").mkdir()
    save_checkpoint(
        project / "models/tiny-s30", replace(checkpoint, network=without(open_recipe(), {GROUP: list(range(32))}))
    )
    values = json.loads(ask("census", "tiny.yaml", "--level", "s30", "--json", at=project).out)
    assert {group["layer"]: group["channels"] for group in values["groups"]}[GROUP] == 64


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["census", "tiny.yaml", "--level", "s99"], "The level 's99' of 'tiny' does not exist.\n  try: --level with"),
        (["census", "tiny.yaml", "--level", "../tiny"], "does not exist"),
        (["census", "--network", "mobilnet_v2"], "'mobilnet_v2' is not one of torchvision's"),
        (["census", "--network", "resnet18", "tiny.yaml"], "RECIPE and --network"),
        (["census", "--network", "resnet18", "--level", "s30"], "--level and --network"),
        (["census", "tiny.yaml", "--image-size", "64"], "has its image size"),
        (["census", "tiny.yaml", "--align", "3"], "--align 3 is none of 1, 2, 4, 8, 16, 32."),
        (["census", "tiny.yaml", "--scope", "some"], "'some' is not one of 'expand', 'all'"),
        (["census", "--network", "shufflenet_v2_x0_5", "--image-size", "64"], "cannot be followed"),
        (["sensitivity", "tiny.yaml", "--fractions", "1.5"], "holds '1.5', which is no number in (0, 1)."),
        (["sensitivity", "tiny.yaml", "--fractions", "0.2,nan"], "holds 'nan'"),
        (["sensitivity", "tiny.yaml", "--fractions", "0.5,half"], "holds 'half'"),
        (["sensitivity", "tiny.yaml", "--fractions", "0.5,,0.7"], "holds ''"),
        (["sensitivity", "tiny.yaml", "--fractions", "0.5,0.25"], "--fractions 0.5,0.25 does not rise."),
        (["sensitivity", "tiny.yaml", "--images", "1"], "'--images'"),
    ],
)
def test_a_wrong_argument_is_a_sentence(ask: Ask, trained: Path, arguments: list[str], said: str) -> None:
    answer = ask(*arguments, at=trained)
    assert said in answer.refusal()
    assert answer.out == ""
    assert not (trained / "models/tiny-sensitivity").exists()


def test_without_a_baseline_both_say_how_to_get_one(ask: Ask, project: Path) -> None:
    shutil.rmtree(project / "models/tiny")
    for command in ("census", "sensitivity"):
        error = ask(command, "tiny.yaml", at=project).refusal()
        assert "models/tiny does not exist" in error
        assert "edgeprune train" in error


# Sensitivity


class InterruptingReporter:
    """Somebody presses Ctrl-C when so many cells are finished."""

    def __init__(self, cells: int) -> None:
        self.cells = cells

    def say(self, line: str) -> None:
        del line

    @contextmanager
    def track(self, title: str) -> Iterator[Callable[[int, int], None]]:
        def progress(done: int, total: int) -> None:
            if title.startswith("pruning") and done >= self.cells:
                raise KeyboardInterrupt

        yield progress


def measure(*fractions: float, images: int = 16, recipe: Recipe | None = None) -> Sensitivity:
    return measure_sensitivity(
        recipe or open_recipe(), Workspace(Path()), SilentReporter(), fractions=fractions, images=images
    )


def cells_of(table: Sensitivity) -> list[Cell | None]:
    return [table.whole, *(cell for row in table.rows for cell in row.cells)]


def test_the_command_keeps_a_table_and_a_picture(ask: Ask, project: Path) -> None:
    answer = ask("sensitivity", "tiny.yaml", "--fractions", "0.25,0.9", "--images", "16", at=project)
    assert (answer.code, answer.err) == (0, "")
    assert f" {GROUP} " in answer.out
    folder = project / "models/tiny-sensitivity"
    assert f"{folder.relative_to(project)}: sensitivity.md" in answer.out
    assert {path.name for path in folder.iterdir()} == {RECORD, TABLE, TEXT, PICTURE}
    assert (folder / PICTURE).read_bytes().startswith(PNG)
    # 0.25 of 96 is three blocks; 0.9 would be eleven, and that is all that can go.
    assert "(24)" in (folder / TEXT).read_text(encoding="utf-8")
    kept = json.loads((folder / TABLE).read_text(encoding="utf-8"))
    assert [cell["removed"] for cell in kept["rows"][0]["cells"]] == [24, 88]
    assert set(kept["factors"]) == {"0.25", "0.9"}
    again = ask("sensitivity", "tiny.yaml", "--fractions", "0.25,0.9", "--images", "16", "--json", at=project)
    assert (again.code, again.err) == (0, "")
    values = json.loads(again.out)
    assert values["folder"] == "models/tiny-sensitivity"
    assert values["table"]["rows"] == kept["rows"]


def test_a_cell_is_that_group_cut_alone_recalibrated_and_held_against_the_recalibrated_network(project: Path) -> None:
    """Recalibration alone moves answers more than most groups do; it must not be taken for what a group does."""
    recipe = open_recipe()
    table = measure(0.25)
    baseline = open_baseline(recipe, Workspace(Path()), SilentReporter())
    data = baseline.dataset
    network = baseline.checkpoint.network
    scores = score_groups(recipe, network, count_groups(recipe, network), data, seed=recipe.seed)[GROUP]
    lowest = np.argsort(scores)[:24]
    images = sample_images(data.train, 16, recipe.seed)
    normal = {"mean": recipe.data.mean, "std": recipe.data.std}
    whole = recalibrate_batchnorm(network, images, **normal)
    pruned = recalibrate_batchnorm(without(recipe, {GROUP: lowest.tolist()}), images, **normal)
    true, found = (
        torch.from_numpy(predict_logits(each, data.val, **normal)).double().softmax(dim=1) for each in (whole, pruned)
    )
    cell = table.rows[0].cells[0]
    assert cell is not None
    assert cell.removed == 24
    assert cell.importance == pytest.approx(scores[lowest].sum())
    assert cell.divergence == pytest.approx(float((true * (true / found).log()).sum(dim=1).mean()))
    assert cell.accuracy == evaluate_network(pruned, data.val, **normal).accuracy
    assert table.whole.accuracy == evaluate_network(whole, data.val, **normal).accuracy
    assert table.unpruned == baseline.dense.val.accuracy
    assert table.whole.divergence > 0


def test_an_interrupted_run_goes_on_with_the_cells_that_are_missing(project: Path) -> None:
    """Wall times differ from run to run, so a cell with the same one was not measured again."""
    with pytest.raises(KeyboardInterrupt):
        measure_sensitivity(open_recipe(), Workspace(Path()), InterruptingReporter(3), fractions=(0.25, 0.5), images=16)
    folder = project / "models/tiny-sensitivity"
    assert [path.name for path in folder.iterdir()] == [RECORD]
    kept = load_record(folder / RECORD, SensitivityRecord)
    assert kept is not None
    assert [(cell.layer, cell.removed) for cell in kept.cells] == [("", 0), (GROUP, 24), (GROUP, 48)]
    table = measure(0.25, 0.5)
    found = cells_of(table)
    assert found[:3] == list(kept.cells)
    assert None not in found[3:]
    shutil.rmtree(folder)
    undisturbed = measure(0.25, 0.5)
    assert [replace(cell, seconds=0.0) for cell in cells_of(undisturbed) if cell] == [
        replace(cell, seconds=0.0) for cell in found if cell
    ]


def test_another_fraction_costs_only_its_own_cells(project: Path) -> None:
    before, after = measure(0.25), measure(0.25, 0.5)
    assert [row.cells[0] for row in after.rows] == [row.cells[0] for row in before.rows]
    assert after.whole == before.whole
    assert all(row.cells[1] != row.cells[0] for row in after.rows)


@pytest.mark.parametrize("change", [{"importance": "l2_norm"}, {"align": 16}])
def test_what_decides_the_cells_makes_them_again(project: Path, change: dict[str, object]) -> None:
    recipe = open_recipe()
    before = measure(0.5)
    changed = recipe.model_copy(update={"prune": recipe.prune.model_copy(update=change)})
    assert measure(0.5, recipe=changed).whole.seconds != before.whole.seconds
    assert measure(0.5, images=24, recipe=changed).images == 24
    baseline = open_baseline(recipe, Workspace(Path()), SilentReporter())
    with pytest.raises(InputError, match="another importance"):
        open_sensitivity(recipe, Workspace(Path()), baseline)


def test_a_later_command_can_open_the_table(project: Path) -> None:
    recipe, workspace = open_recipe(), Workspace(Path())
    baseline = open_baseline(recipe, workspace, SilentReporter())
    with pytest.raises(InputError, match="does not exist"):
        open_sensitivity(recipe, workspace, baseline)
    assert measure(0.25) == open_sensitivity(recipe, workspace, baseline)


def test_a_folder_of_somebody_else_is_left_alone(ask: Ask, project: Path) -> None:
    (project / "models/tiny-sensitivity").mkdir()
    (project / "models/tiny-sensitivity/thesis.txt").write_text("years of work")
    assert "did not write" in ask("sensitivity", "tiny.yaml", at=project).refusal()


def test_without_matplotlib_nothing_is_measured(project: Path) -> None:
    """A picture that cannot be drawn must not cost the minutes before it."""
    code = "import sys; sys.modules['matplotlib'] = None; from edgeprune.cli import main; main()"
    answer = run_python("-c", code, "sensitivity", "tiny.yaml", at=project)
    assert "`edgeprune sensitivity` needs the package matplotlib" in answer.refusal()
    assert not (project / "models/tiny-sensitivity").exists()


# Figures


def make_table(*rows: GroupRow, fractions: tuple[float, ...] = (0.25, 0.5)) -> Sensitivity:
    return Sensitivity(
        inputs=Inputs(edgeprune="0", recipe_part="", dataset="", parent=""),
        name="made-up",
        importance="l1_norm",
        align=8,
        images=16,
        fractions=fractions,
        unpruned=Accuracy(correct=90, n=100),
        whole=make_cell("", 0, 0.0, 0.01, correct=80),
        rows=rows,
    )


def make_cell(layer: str, removed: int, importance: float, divergence: float, *, correct: int = 80) -> Cell:
    return Cell(
        layer=layer,
        removed=removed,
        importance=importance,
        accuracy=Accuracy(correct=correct, n=100),
        divergence=divergence,
        seconds=1.0,
    )


MIXED = make_table(
    GroupRow(layer="a", channels=32, cells=(make_cell("a", 8, 2.0, 0.1, correct=78), make_cell("a", 16, 5.0, 2.0))),
    GroupRow(
        layer="b", channels=32, cells=(make_cell("b", 8, 4.0, 0.0), make_cell("b", 16, 8.0, DIVERGED, correct=50))
    ),
    GroupRow(layer="c", channels=8, cells=(None, None)),
    GroupRow(layer="d", channels=32, cells=(make_cell("d", 8, 0.0, 0.0), make_cell("d", 16, 0.1, 0.01, correct=81))),
    GroupRow(layer="e", channels=32, cells=(make_cell("e", 8, 1.0, 0.2), make_cell("e", 16, 2.0, 0.4))),
)


def test_scores_times_factors_are_nats() -> None:
    factors = sensitivity_factors(MIXED)
    assert factors["a"] * 2.0 == pytest.approx(0.1)
    assert factors["e"] * 1.0 == pytest.approx(0.2)
    assert sensitivity_factors(MIXED, fraction=0.6)["a"] * 5.0 == pytest.approx(2.0)


def test_no_group_is_for_free() -> None:
    """A factor of zero would let a plan empty a group whose influence a few hundred images do not show."""
    factors = sensitivity_factors(MIXED)
    assert factors["c"] == factors["d"] == 0.05  # the median of 0.05, 0 and 0.2
    assert 0 < factors["b"] < factors["a"] / 100
    nothing = make_table(GroupRow(layer="a", channels=32, cells=(make_cell("a", 8, 2.0, 0.0),)), fractions=(0.25,))
    assert sensitivity_factors(nothing) == {"a": 1.0}


def test_divergence_is_zero_for_equal_answers_and_huge_for_no_answer() -> None:
    even, sure = np.zeros((2, 2), np.float32), np.array([[log(3.0), 0.0]] * 2, np.float32)
    assert mean_divergence(sure, sure) == 0.0
    assert mean_divergence(even, sure) == pytest.approx(0.5 * log(0.5 / 0.75) + 0.5 * log(0.5 / 0.25))
    assert mean_divergence(even, np.full((2, 2), np.nan, np.float32)) == DIVERGED


def test_text_says_what_went_and_what_it_did() -> None:
    text = render_table(MIXED)
    assert "| a | 32 | -2.0, 0.1000 (8) | +0.0, 2.0000 (16) | 0.05 |" in text
    assert "| b | 32 | +0.0, 0.0000 (8) | -30.0, diverged (16) |" in text
    assert "| c | 8 | one block | one block |" in text


@pytest.mark.parametrize("rows", [1, 5, 60])
def test_a_picture_can_be_drawn_of_any_table(rows: int) -> None:
    """matplotlib warns where a layout does not fit, and warnings are errors here."""
    table = replace(MIXED, rows=(MIXED.rows * 12)[:rows])
    picture = draw_sensitivity(table)
    assert picture.startswith(PNG)
    height = int.from_bytes(picture[20:24], "big")
    assert height >= 20 * rows  # a line of text each
