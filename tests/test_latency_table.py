"""How fast this machine runs a network: real files in onnxruntime. Times are held against each other, never a clock."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Ask, call_edgeprune
from tiny import make_images, write_recipe
from torch import nn

from edgeprune.budget import Budget
from edgeprune.errors import InputError
from edgeprune.export import write_onnx
from edgeprune.pipeline import (
    SilentReporter,
    Workspace,
    measure_latency_table,
    open_baseline,
    open_latency_table,
    prune_to_budget,
)
from edgeprune.pipeline.latency_fit import fit_latency
from edgeprune.pipeline.latency_table import TABLE, MeasuredLatency, measure_network_ms, probe_images
from edgeprune.plan import find_groups
from edgeprune.plan.cost_model import CostModel, trace_costs
from edgeprune.recipe import Recipe, read_recipe
from edgeprune.verify.layer_times import LayerTimes, measure_call_ms, measure_calls_ms, measure_layer_times
from edgeprune.zoo import NetworkSpec, build_network

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 32, 32), dtype=np.float32)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_network(NetworkSpec(network=name, num_classes=2, image_size=32, pad="torch")).eval()


def write(network: nn.Module, path: Path) -> Path:
    return write_onnx(network, path, image_size=32, dynamic_batch=False, metadata={}, probe=IMAGES).path


def layers_of(network: nn.Module) -> set[str]:
    return {name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


# The file


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(build("mobilenet_v3_small"), tmp_path_factory.mktemp("reference") / "model.onnx")


def test_every_layer_is_found_again_in_the_optimised_graph(reference: Path) -> None:
    """onnxruntime fuses, renames and inserts operators; a layer that is not found would cost nothing in every plan."""
    layers = layers_of(build("mobilenet_v3_small"))
    times = measure_layer_times(reference, IMAGES, layers=layers)
    assert set(times.own_ms) == layers
    assert set(times.after_ms) <= layers
    assert min(*times.own_ms.values(), *times.after_ms.values()) >= 0
    assert times.operators >= len(layers)
    assert times.quickest_ms > 0


def test_a_residual_sum_hides_no_layer(tmp_path: Path) -> None:
    """Convolution, sum and activation become one operator, which goes by the activation's name."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3, padding=1)
            self.first = nn.Conv2d(16, 16, 3, padding=1)
            self.second = nn.Conv2d(16, 16, 3, padding=1)
            self.short = nn.Conv2d(16, 16, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            x = torch.relu(self.first(x) + x)
            return torch.relu(self.short(x) + self.second(x)).mean((2, 3))

    path = write(Residual().eval(), tmp_path / "model.onnx")
    layers = {"stem", "first", "second", "short"}
    assert set(measure_layer_times(path, IMAGES, layers=layers).own_ms) == layers


def test_what_has_no_weights_belongs_to_the_layer_that_made_the_larger_input(tmp_path: Path) -> None:
    """The gate of a squeeze-excite has one value a channel; what it costs to apply grows with the tensor it gates."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Conv2d(3, 8, 3, padding=1)
            self.gate = nn.Conv2d(8, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            wide = self.wide(x)
            gated = torch.erf(self.gate(wide.mean((2, 3), keepdim=True)) * wide)
            return torch.erf(torch.erf(gated)).flatten(1)

    path = write(Gated().eval(), tmp_path / "model.onnx")
    times = measure_layer_times(path, IMAGES, layers={"wide", "gate"})
    assert times.after_ms["wide"] > times.after_ms.get("gate", 0.0)
    assert set(measure_layer_times(path, IMAGES, layers={"gate"}).own_ms) == {"gate"}
    assert measure_layer_times(path, IMAGES, layers={"gate"}).rest_ms > 0


def test_nothing_of_the_profile_is_left_behind(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    measure_layer_times(reference, IMAGES, layers=set())
    assert list(tmp_path.iterdir()) == []


def test_many_more_operations_take_longer_from_a_file_or_from_bytes(
    tiny_network: Callable[..., nn.Module], reference: Path, tmp_path: Path
) -> None:
    small = write(tiny_network(), tmp_path / "model.onnx")
    small_ms, large_ms = measure_calls_ms([small, reference], IMAGES, sessions=2, rounds=3)
    assert 0 < 3 * small_ms < large_ms
    assert 3 * measure_call_ms(small.read_bytes(), IMAGES) < large_ms


def test_a_file_that_is_missing_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        measure_call_ms(tmp_path / "model.onnx", IMAGES)
    with pytest.raises(InputError, match="cannot be loaded"):
        measure_call_ms(b"no model", IMAGES)


# The fit


@pytest.fixture(scope="module")
def model() -> CostModel:
    network = build("mobilenet_v3_small")
    return trace_costs(network, find_groups(network, image_size=32, scope="expand", protect=()), image_size=32)


TIMES = LayerTimes(
    own_ms={"features.4.block.0.0": 0.3, "features.4.block.3.0": 0.2, "features.0.0": 0.1},
    after_ms={"features.4.block.0.0": 0.1, "classifier.3": 0.05},
    rest_ms=0.05,
    operators=50,
    quickest_ms=0.004,
)
HALF = {"features.4.block.0.0": 48}


def test_parts_add_up_to_the_whole_call(model: CostModel) -> None:
    for smaller_ms in (1.8, 1.4, 0.1, 2.5):
        fixed_ms, layers = fit_latency(model, TIMES, call_ms=2.0, smaller_ms=smaller_ms, smaller_kept=HALF)
        assert fixed_ms >= 0
        assert min(each.ms for each in layers) > 0
        assert fixed_ms + sum(each.ms for each in layers) == pytest.approx(2.0)


def test_activations_grow_with_channels_like_the_batchnorm_that_is_folded_away(model: CostModel) -> None:
    _, layers = fit_latency(model, TIMES, call_ms=2.0, smaller_ms=2.0, smaller_kept={})
    kinds = {each.layer: each.kind for each in layers}
    assert kinds["features.4.block.0.0"] == "pointwise"
    assert kinds["features.4.block.0.1"] == "batch_norm"
    assert kinds["classifier.3"] == "linear"  # there is no BatchNorm behind it
    assert next(each.layer for each in layers) == "features.0.0"  # network order


def test_where_the_second_network_says_nothing_every_operator_costs_what_the_quickest_does(model: CostModel) -> None:
    fixed_ms, layers = fit_latency(model, TIMES, call_ms=2.0, smaller_ms=2.0, smaller_kept={})
    assert fixed_ms == pytest.approx(2.0 * 0.25 / (0.25 + 0.75))
    # Neither says a second one anything that a busy machine made slower, nor one that is as large.
    assert fit_latency(model, TIMES, call_ms=2.0, smaller_ms=2.1, smaller_kept=HALF) == (fixed_ms, layers)
    assert fit_latency(model, TIMES, call_ms=2.0, smaller_ms=1.9, smaller_kept={}) == (fixed_ms, layers)


def test_both_measured_networks_come_out_again(model: CostModel) -> None:
    fixed_ms, layers = fit_latency(model, TIMES, call_ms=2.0, smaller_ms=1.6, smaller_kept=HALF)
    assert fixed_ms > 0
    measured = make_measured(fixed_ms=fixed_ms, layers=layers)
    timed = model.with_latency(measured.table())
    assert timed.cost({}).latency_ms == pytest.approx(2.0)
    assert timed.cost(HALF).latency_ms == pytest.approx(1.6)


def test_a_network_without_layers_is_all_fixed(model: CostModel) -> None:
    nothing = LayerTimes(own_ms={}, after_ms={}, rest_ms=0.1, operators=1, quickest_ms=0.1)
    assert fit_latency(model, nothing, call_ms=2.0, smaller_ms=2.0, smaller_kept={}) == (2.0, ())


def make_measured(**values: object) -> MeasuredLatency:
    given: dict[str, object] = {
        "edgeprune": "0",
        "recipe_part": "",
        "weights": "",
        "runtime": "onnxruntime",
        "cpu": "cpu",
        "threads": 1,
        "protocol": "by hand",
        "call_ms": 2.0,
        "half_ms": 1.0,
    }
    return MeasuredLatency(**(given | values))  # type: ignore[arg-type]


# The command


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a baseline and its table. Shared: tests that change something copy it."""
    root = tmp_path_factory.mktemp("measured") / "project"
    make_images(root / "images", per_class=24)
    write_recipe(root / "tiny.yaml", Path("images"), train={"epochs": 1})
    assert call_edgeprune("train", "tiny.yaml", at=root) == 0
    assert call_edgeprune("devices", "measure", "tiny.yaml", "--json", at=root) == 0
    return root


@pytest.fixture
def project(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, and the current folder."""
    root = Path(shutil.copytree(measured, tmp_path / "project"))
    monkeypatch.chdir(root)
    return root


def open_recipe() -> Recipe:
    return read_recipe(Path("tiny.yaml"))


def open_table(recipe: Recipe | None = None) -> MeasuredLatency | None:
    recipe, workspace = recipe or open_recipe(), Workspace(Path())
    return open_latency_table(recipe, workspace, open_baseline(recipe, workspace, SilentReporter()).weights)


def change_table(**values: object) -> None:
    path = Path("models/tiny-latency") / TABLE
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def test_the_command_keeps_a_table_that_adds_up(ask: Ask, project: Path) -> None:
    answer = ask("devices", "measure", "tiny.yaml", "--json", at=project)
    assert (answer.code, answer.err) == (0, "")
    values = json.loads(answer.out)
    table = values["table"]
    assert values["folder"] == "models/tiny-latency"
    assert json.loads((project / "models/tiny-latency" / TABLE).read_text(encoding="utf-8")) == table
    assert table["fixed_ms"] + sum(each["ms"] for each in table["layers"]) == pytest.approx(table["call_ms"])
    assert table["runtime"].startswith("onnxruntime ")
    assert table["threads"] == 1
    assert table["cpu"]
    assert {"features.0.0", "classifier.0"} <= {each["layer"] for each in table["layers"]}
    kept = open_table()
    assert kept is not None
    timed = trace_costs(build("mobilenet_v3_small"), (), image_size=32).with_latency(kept.table())
    assert timed.cost({}).latency_ms == pytest.approx(kept.call_ms, rel=1e-4)


def test_text_names_the_layers_the_machine_and_the_folder(ask: Ask, project: Path) -> None:
    answer = ask("devices", "measure", "tiny.yaml", at=project)
    assert (answer.code, answer.err) == (0, "")
    for said in (
        "models/tiny-latency: up to date\n",
        " features.0.0 ",
        " fixed ",
        "ms a call: onnxruntime ",
        "models/tiny-latency: latency.json",
    ):
        assert said in answer.out


@pytest.mark.long
def test_a_table_is_measured_once_unless_it_is_wanted_again(project: Path) -> None:
    kept = open_table()
    assert kept is not None
    assert measure_latency_table(open_recipe(), Workspace(Path()), SilentReporter()) == kept
    again = measure_latency_table(open_recipe(), Workspace(Path()), SilentReporter(), again=True)
    assert again.call_ms != kept.call_ms  # to the last digit of a clock
    assert dataclasses.replace(kept, fixed_ms=0.0, call_ms=0.0, half_ms=0.0, layers=()) == dataclasses.replace(
        again, fixed_ms=0.0, call_ms=0.0, half_ms=0.0, layers=()
    )
    assert open_table() == again


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": "another processor"},
        {"runtime": "onnxruntime 0.1"},
        {"weights": "another network"},
        {"recipe_part": "another file"},
        {"edgeprune": "0.0"},
        {"layers": "none"},
    ],
    ids=str,
)
def test_a_table_of_something_else_is_not_used(project: Path, change: dict[str, object]) -> None:
    assert open_table() is not None
    change_table(**change)
    assert open_table() is None


def test_another_export_needs_another_table_and_other_targets_do_not(project: Path) -> None:
    recipe = open_recipe()
    free = recipe.model_copy(update={"export": recipe.export.model_copy(update={"dynamic_batch": True})})
    assert open_table(free) is None
    other = recipe.model_copy(update={"prune": recipe.prune.model_copy(update={"targets": (0.5,), "scope": "all"})})
    assert open_table(other) is not None


def test_no_table_is_no_table(project: Path) -> None:
    shutil.rmtree(project / "models/tiny-latency")
    assert open_table() is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.yaml"], "nowhere.yaml does not exist"),
        (["tiny.yaml", "--data", "nowhere"], "nowhere"),
        (["tiny.yaml", "--twice"], "--twice"),
    ],
)
def test_wrong_input_is_a_sentence(ask: Ask, project: Path, arguments: list[str], said: str) -> None:
    answer = ask("devices", "measure", *arguments, "--json", at=project)
    assert said in answer.refusal()
    assert answer.out == ""


def test_without_a_baseline_it_says_how_to_get_one(ask: Ask, project: Path) -> None:
    shutil.rmtree(project / "models/tiny")
    assert "edgeprune train" in ask("devices", "measure", "tiny.yaml", at=project).refusal()


def test_a_folder_of_somebody_else_is_left_alone(ask: Ask, project: Path) -> None:
    (project / "models/tiny-latency" / TABLE).rename(project / "models/tiny-latency/thesis.txt")
    assert "did not write" in ask("devices", "measure", "tiny.yaml", at=project).refusal()
    assert [path.name for path in (project / "models/tiny-latency").iterdir()] == ["thesis.txt"]


# A bound on latency


@pytest.mark.long
def test_a_bound_on_latency_is_planned_with_the_table_and_met_by_what_was_measured(project: Path) -> None:
    recipe = open_recipe()
    section = recipe.prune.model_copy(update={"scope": "all"})
    recipe, workspace = recipe.model_copy(update={"prune": section}), Workspace(Path())
    baseline = open_baseline(recipe, workspace, SilentReporter())
    table = open_table(recipe)
    assert table is not None
    # As of now: the machine may have been busier when the table was made.
    now_ms = measure_network_ms(recipe, baseline.checkpoint.network, probe_images(recipe, baseline))
    budget = Budget(latency_ms=0.8 * min(now_ms, table.call_ms))
    made = prune_to_budget(recipe, workspace, SilentReporter(), budget=budget)
    assert made.level == budget.level
    assert made.record.cost.macs < 0.95 * baseline.dense.cost.macs


def test_a_bound_on_latency_without_a_table_says_what_makes_one(ask: Ask, project: Path) -> None:
    shutil.rmtree(project / "models/tiny-latency")
    answer = ask("prune", "tiny.yaml", "--max-latency", "1ms", at=project)
    assert "latency=1ms: this machine has not been measured with this network." in answer.refusal()
    assert "edgeprune devices measure" in answer.err
