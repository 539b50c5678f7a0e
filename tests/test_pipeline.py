"""The whole way on a small image folder: real training, real surgery, real files, in seconds."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file
from tiny import make_images, write_recipe
from torch import nn

from edgeprune.budget import parse_budget
from edgeprune.devices.profile import RESERVE_BYTES
from edgeprune.errors import EdgepruneError, GateFailedError, InputError
from edgeprune.pipeline import (
    ExportSummary,
    SilentReporter,
    Workspace,
    audit_levels,
    choose_bounds,
    export_levels,
    finished_levels,
    make_baseline,
    open_baseline,
    prune_to_budget,
    prune_to_schedule,
)
from edgeprune.pipeline.candidates import describe_level
from edgeprune.pipeline.finished import open_level
from edgeprune.pipeline.records import RECORD, LevelRecord, load_record
from edgeprune.pipeline.settings import budget_digest, recovery_digest
from edgeprune.pipeline.structure import measure_structure
from edgeprune.plan.budget import UnreachableBudgetError
from edgeprune.recipe import Recipe, read_recipe
from edgeprune.verify.bundle import verify_bundle
from edgeprune.zoo import checkpoint_digest, load_checkpoint


class Listener(SilentReporter):
    """Keeps what a person would read."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with images, a recipe and a trained baseline."""
    root = tmp_path_factory.mktemp("project")
    write_recipe(root / "tiny.yaml", make_images(root / "images"))
    make_baseline(read_recipe(root / "tiny.yaml"), Workspace(root), SilentReporter())
    return root


@pytest.fixture(scope="module")
def pruned(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with both levels of its schedule."""
    root = copied(trained, tmp_path_factory.mktemp("pruned") / "project")
    prune_to_schedule(read_recipe(root / "tiny.yaml"), Workspace(root), SilentReporter())
    return root


def publish(recipe: Recipe, workspace: Workspace, target: float = 0.6) -> ExportSummary:
    """Export one level; the error that kept it back is raised."""
    outcome = export_levels(recipe, workspace, SilentReporter(), target=target)
    for failure in outcome.failures.values():
        raise failure
    return outcome.summaries[0]


def copied(project: Path, to: Path) -> Path:
    shutil.copytree(project, to)
    return to


def recipe_of(root: Path, **sections: object) -> Recipe:
    """The project's recipe with keys of whole sections replaced."""
    values = yaml.safe_load((root / "tiny.yaml").read_text(encoding="utf-8"))
    for section, changes in sections.items():
        values[section] = {**values.get(section, {}), **changes} if isinstance(changes, dict) else changes
    (root / "tiny.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return read_recipe(root / "tiny.yaml")


def test_a_second_run_makes_nothing(pruned: Path) -> None:
    """Nobody waits twice for the same work, and an idle run leaves no empty run directory."""
    runs = sorted((pruned / "runs").iterdir())
    summary = prune_to_schedule(read_recipe(pruned / "tiny.yaml"), Workspace(pruned), SilentReporter())
    assert [outcome.up_to_date for outcome in summary.outcomes] == [True, True]
    assert summary.run is None
    assert sorted((pruned / "runs").iterdir()) == runs
    assert not make_baseline(read_recipe(pruned / "tiny.yaml"), Workspace(pruned), SilentReporter())[1]


def test_levels_are_cumulative_and_aligned(pruned: Path) -> None:
    recipe = read_recipe(pruned / "tiny.yaml")
    summary = prune_to_schedule(recipe, Workspace(pruned), SilentReporter())
    first, second = (outcome.record for outcome in summary.outcomes)
    assert first is not None
    assert second is not None
    assert (first.parent_level, second.parent_level) == ("dense", "s30")
    for record in (first, second):
        assert record.plan.target <= record.plan.achieved < record.plan.target + 8 / 2440
        assert all(len(group.kept) % 8 == 0 for group in record.plan.groups)
    network = load_checkpoint(pruned / "models" / "tiny-s60").network
    assert sum(parameter.numel() for parameter in network.parameters()) == second.cost.params


def test_the_run_directory_tells_the_story(pruned: Path) -> None:
    """The wording is the log's, so that two people can compare their runs line by line."""
    (run,) = (pruned / "runs").iterdir()
    log = (run / "log.txt").read_text(encoding="utf-8")
    for line in (
        "Total prunable channels (expand convs): 2440",
        "Pruning towards 30.00% global channel sparsity (expand convs only)",
        "Removing 736 channels (cumulative fraction 0.0%)",
        "Cumulative removed fraction: 30.2%",
        "Recalibrating BatchNorm statistics using the train loader...",
        "Post-surgery pre-recovery accuracy: 0.",
        "[target 30.0% | epoch 1/2] train loss ",
        "Best recovery epoch ",
    ):
        assert line in log
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["level"] for entry in metrics if "epoch" in entry] == ["s30", "s30", "s60", "s60"]
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert [level["level"] for level in results["levels"]] == ["s30", "s60"]
    assert len(results["split_digest"]) == 64
    assert yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["recover"]["alpha"] == 0.5
    assert f"**Run:** {run.name}" in (pruned / "JOURNAL.md").read_text(encoding="utf-8")


def test_the_journal_says_what_changed(pruned: Path, tmp_path: Path) -> None:
    """The log kept this by hand, and got it wrong once."""
    root = copied(pruned, tmp_path / "project")
    with (root / "JOURNAL.md").open("a", encoding="utf-8") as file:
        file.write("My own words.\n")
    prune_to_schedule(recipe_of(root, recover={"epochs": 1}), Workspace(root), SilentReporter())
    journal = (root / "JOURNAL.md").read_text(encoding="utf-8")
    assert "recover.epochs: 1 (from 2)" in journal
    assert journal.index("My own words.") < journal.index("recover.epochs: 1 (from 2)")


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("recover", {"alpha": 0.9}),
        ("recover", {"temperature": 1.0}),
        ("recover", {"lr_high": 0.002}),
        ("recover", {"epochs": 3}),
        ("recover", {"batch_size": 24}),
        ("recover", {"weight_decay": 0.5}),
        ("recover", {"lr_schedule": "cosine"}),
        ("recover", {"lr_schedule": "one_cycle"}),
        ("recover", {"warmup_epochs": 1.0}),
        ("recover", {"ema": 0.5}),
        ("recover", {"mixup": 0.2}),
        ("recover", {"label_smoothing": 0.1}),
        ("recover", {"feature_weight": 10.0}),
        ("recover", {"feature_weight": 10.0, "feature_blocks": ["features.1"]}),
        ("recalibrate", {"split": "val"}),
        ("recalibrate", {"images": 20}),
        ("prune", {"importance": "bn_gamma"}),
        ("prune", {"importance": "taylor"}),
        ("prune", {"coupled": "all"}),
        ("prune", {"normalise": "isomorphic"}),
        ("prune", {"scope": "all"}),
        ("activations", {"early": "relu"}),
        ("prune", {"align": 1}),
        ("prune", {"protect": ["features.10"]}),
        ("augment", {"flip_horizontal": False}),
        ("seed", 7),
    ],
)
def test_each_value_of_the_recipe_reaches_the_code(
    pruned: Path, tmp_path: Path, section: str, change: dict[str, object] | int
) -> None:
    """Run 1 of the log silently lost alpha and temperature; a value that changes nothing is a value that got lost."""
    root = copied(pruned, tmp_path / "project")
    before = checkpoint_digest(root / "models" / "tiny-s30")
    summary = prune_to_schedule(recipe_of(root, **{section: change}), Workspace(root), SilentReporter(), target=0.3)
    assert not summary.outcomes[0].up_to_date
    assert checkpoint_digest(root / "models" / "tiny-s30") != before


def test_patience_and_thresholds_decide_when_to_stop(pruned: Path, tmp_path: Path) -> None:
    root = copied(pruned, tmp_path / "project")
    recipe = recipe_of(root, prune={"min_accuracy": 1.0})
    listener = Listener()
    summary = prune_to_schedule(recipe, Workspace(root), listener)
    assert summary.stopped.startswith("Stopping: accuracy 0.")
    assert summary.stopped in listener.lines
    assert summary.outcomes[0].up_to_date  # the limit chooses among levels, it does not make them
    assert summary.outcomes[1].record is None
    assert summary.outcomes[1].reason == summary.stopped


def test_a_step_that_loses_too_much_is_halved_and_the_next_run_knows(pruned: Path, tmp_path: Path) -> None:
    """The log: "10 to 20 % is too big a jump", found by hand there."""
    root = copied(pruned, tmp_path / "project")
    # No step may lose anything at all, and a step of 0.04 can be halved once: 0.3, then 0.32 where 0.34 loses.
    recipe = recipe_of(root, prune={"targets": [0.3, 0.34], "max_step_drop": 0.0})
    listener = Listener()
    first = prune_to_schedule(recipe, Workspace(root), listener)
    halved = [line for line in listener.lines if "going by" in line]
    made = [outcome.record.level for outcome in first.outcomes if outcome.record is not None]
    assert made[-1] == "s34"
    assert len(made) == 2 + len(halved)
    again = prune_to_schedule(recipe, Workspace(root), SilentReporter())
    assert all(outcome.up_to_date for outcome in again.outcomes)
    assert [outcome.record.weights for outcome in again.outcomes] == [
        outcome.record.weights for outcome in first.outcomes
    ]


def test_with_teacher_previous_the_last_level_is_the_assistant(pruned: Path, tmp_path: Path) -> None:
    root = copied(pruned, tmp_path / "project")
    summary = prune_to_schedule(recipe_of(root, recover={"teacher": "previous"}), Workspace(root), SilentReporter())
    first, second = (outcome.record for outcome in summary.outcomes)
    assert first is not None
    assert second is not None
    assert first.inputs.teacher == first.inputs.baseline
    assert second.inputs.teacher == first.weights


def test_a_budget_makes_a_level_that_meets_it(pruned: Path, tmp_path: Path) -> None:
    root = copied(pruned, tmp_path / "project")
    recipe, workspace = recipe_of(root, prune={"scope": "all"}), Workspace(root)
    dense = open_baseline(recipe, workspace, SilentReporter()).dense.cost
    budget = parse_budget(f"macs={dense.macs // 2} params={dense.params // 3}")
    made = prune_to_budget(recipe, workspace, SilentReporter(), budget=budget)
    assert made.level == budget.level
    assert made.record.cost.macs <= dense.macs // 2
    assert made.record.cost.params <= dense.params // 3
    # Whole blocks end near the bound, not far below it.
    used = max(made.record.cost.macs / (dense.macs // 2), made.record.cost.params / (dense.params // 3))
    assert used >= 0.95
    again = prune_to_budget(recipe, workspace, SilentReporter(), budget=budget)
    assert again.up_to_date
    bundle = export_levels(recipe, workspace, SilentReporter(), target=None, budget=budget).summaries[0]
    gates = {gate.name: gate for gate in bundle.verdict.gates}
    assert gates["budget_macs"].figure == made.record.cost.macs
    assert gates["budget_params"].passed


def test_a_network_that_nobody_can_prune_is_not_trained(tmp_path: Path) -> None:
    write_recipe(
        tmp_path / "tiny.yaml",
        make_images(tmp_path / "images"),
        model={"network": "shufflenet_v2_x0_5", "weights": "none"},
    )
    listener = Listener()
    with pytest.raises(InputError, match="shuffled channels"):
        make_baseline(read_recipe(tmp_path / "tiny.yaml"), Workspace(tmp_path), listener)
    assert not any("epoch" in line for line in listener.lines)
    assert not (tmp_path / "models").exists()


def test_a_baseline_that_has_learnt_the_test_images_is_refused(pruned: Path, tmp_path: Path) -> None:
    """Another seed of the split, the same images: what is test now was train then."""
    root = copied(pruned, tmp_path / "project")
    recipe = recipe_of(root, data={"split_seed": 1})
    with pytest.raises(InputError, match=r"was trained with data\.split_seed 0, the recipe and its data have 1"):
        open_baseline(recipe, Workspace(root), SilentReporter())


def test_a_budget_is_approached_in_steps_by_equal_factors(pruned: Path, tmp_path: Path) -> None:
    root = copied(pruned, tmp_path / "project")
    recipe = recipe_of(root, prune={"scope": "all", "budget_steps": 3}, recover={"epochs": 1, "budget_epochs": 2})
    workspace, listener = Workspace(root), Listener()
    dense = open_baseline(recipe, workspace, SilentReporter()).dense.cost
    made = prune_to_budget(recipe, workspace, listener, budget=parse_budget(f"macs={dense.macs // 8}"))
    folders = sorted((root / "models").glob("tiny-b-*"), key=lambda folder: folder.stat().st_mtime)
    records = [load_record(folder / RECORD, LevelRecord) for folder in folders]
    assert [len(record.epochs) for record in records if record] == [1, 1, 2]
    assert made.record == records[-1]
    for record, share in zip(records, (2, 4, 8), strict=True):
        assert record is not None
        assert 0.8 / share <= record.cost.macs / dense.macs <= 1 / share
    assert [record.inputs.parent for record in records[1:] if record] == [
        record.weights for record in records if record
    ][:2]
    assert prune_to_budget(recipe, workspace, listener, budget=parse_budget(f"macs={dense.macs // 8}")).up_to_date
    # What nothing meets is said before anything on the way to it is made.
    with pytest.raises(UnreachableBudgetError):
        prune_to_budget(recipe, workspace, listener, budget=parse_budget("params=1k"))
    assert len(list((root / "models").glob("tiny-b-*"))) == 3


@pytest.mark.parametrize("section", [{"export": {"pad": "rotate"}}, {"quantise": {"split_peak": False}}])
def test_a_level_of_a_budget_depends_on_what_its_file_is_made_with(
    pruned: Path, tmp_path: Path, section: dict[str, object]
) -> None:
    """The bounds were met by another file."""
    root = copied(pruned, tmp_path / "project")
    before, after = recipe_of(root), recipe_of(root, **section)
    assert recovery_digest(before) == recovery_digest(after), "a level of the schedule does not"
    assert budget_digest(before) == recovery_digest(before) != budget_digest(after)


def test_a_budget_may_take_more_epochs_than_the_steps_before_it(pruned: Path, tmp_path: Path) -> None:
    """Levels on the way are what they were, however long the last cut is recovered."""
    root = copied(pruned, tmp_path / "project")
    workspace = Workspace(root)
    before = load_record(root / "models" / "tiny-s60" / RECORD, LevelRecord)
    assert before is not None
    budget = parse_budget(f"macs={before.cost.macs * 4 // 5}")
    for epochs in (3, 4):
        recipe = recipe_of(root, recover={"budget_epochs": epochs})
        made = prune_to_budget(recipe, workspace, SilentReporter(), budget=budget, target=0.6)
        assert len(made.record.epochs) == epochs > recipe.recover.epochs
        assert made.record.inputs.parent == before.weights
        assert load_record(root / "models" / "tiny-s60" / RECORD, LevelRecord) == before
        assert prune_to_budget(recipe, workspace, SilentReporter(), budget=budget, target=0.6).up_to_date
        baseline = open_baseline(recipe, workspace, SilentReporter())
        assert open_level(recipe, workspace, baseline, budget.level, None, budget=budget)[1] == made.record


@pytest.mark.long
def test_a_device_alone_makes_a_level_that_fits_it(pruned: Path, tmp_path: Path) -> None:
    """Head, tail and scratch together: the tail is known only once a file has run in TFLite Micro."""
    root = copied(pruned, tmp_path / "project")
    recipe, workspace = recipe_of(root, prune={"scope": "all"}), Workspace(root)
    baseline = open_baseline(recipe, workspace, SilentReporter())
    metadata = describe_level(recipe, baseline, None, layout="NHWC RGB int8", macs=0)

    def arena_bytes(network: nn.Module) -> int:
        found = measure_structure(recipe, network, baseline.dataset, metadata, whole_arena=True)
        return found.ram_bytes + found.rest_bytes

    room = arena_bytes(baseline.checkpoint.network) * 4 // 5
    device = root / "board.toml"
    device.write_text(
        'id = "board"\nboard = "Board"\ncore = "cortex-m4"\nruntimes = ["tflite_micro"]\noperators = "tflite_micro"\n'
        f'ram_bytes = {room + RESERVE_BYTES}\nram_note = "all of it"\n'
        '[sources]\ncore = "a data sheet"\nruntimes = "a data sheet"\nram_bytes = "a data sheet"\n'
    )
    # Such a recipe is refused where the device would not be asked at export.
    recipe = recipe_of(
        root,
        prune={"scope": "all"},
        export={"formats": ["onnx", "tflite", "tflite_int8"], "device": str(device)},
        quantise={"qat": "never"},
    )
    recipe, budget = choose_bounds(recipe, typed=None, device=str(device), target=None)
    assert budget is not None
    made = prune_to_budget(recipe, workspace, SilentReporter(), budget=budget)
    assert made.level == f"b-{budget.digest}-board"
    network = load_checkpoint(workspace.level_folder(recipe, made.level)).network
    assert 0.8 * room <= arena_bytes(network) <= room


def test_a_budget_that_nothing_meets_names_the_floor(pruned: Path, tmp_path: Path) -> None:
    root = copied(pruned, tmp_path / "project")
    with pytest.raises(EdgepruneError, match=r"params: lowest reachable [\d,]+") as caught:
        prune_to_budget(
            recipe_of(root, prune={"scope": "all"}),
            Workspace(root),
            SilentReporter(),
            budget=parse_budget("params=1k"),
        )
    assert caught.value.exit_code == 1
    assert not (root / "models" / "tiny-b").exists()


def test_a_target_beyond_reach_is_reported_and_the_run_ends_well(pruned: Path, tmp_path: Path) -> None:
    """Run 6 of the log reached 75 % and had `n/a` at 80 %."""
    root = copied(pruned, tmp_path / "project")
    summary = prune_to_schedule(recipe_of(root, prune={"targets": [0.3, 0.5, 0.99]}), Workspace(root), SilentReporter())
    assert [outcome.record is not None for outcome in summary.outcomes] == [True, True, False]
    assert "cannot be reached" in summary.outcomes[2].reason
    assert summary.run is not None
    assert (summary.run / "results.json").exists()
    assert "99.00% n/a" in (summary.run / "log.txt").read_text(encoding="utf-8")


def test_a_damaged_level_is_made_again_and_is_the_same(pruned: Path, tmp_path: Path) -> None:
    root = copied(pruned, tmp_path / "project")
    weights = root / "models" / "tiny-s60" / "model.safetensors"
    before = checkpoint_digest(weights.parent)
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    summary = prune_to_schedule(read_recipe(root / "tiny.yaml"), Workspace(root), SilentReporter())
    assert [outcome.up_to_date for outcome in summary.outcomes] == [True, False]
    assert checkpoint_digest(weights.parent) == before


def test_export_publishes_a_bundle_that_verifies_and_is_then_up_to_date(pruned: Path, tmp_path: Path) -> None:
    root = copied(pruned, tmp_path / "project")
    recipe, workspace = read_recipe(root / "tiny.yaml"), Workspace(root)
    first = publish(recipe, workspace)
    manifest = (first.bundle / "manifest.json").read_bytes()
    check = verify_bundle(first.bundle)
    assert check.passed
    assert check.complete
    assert json.loads((first.bundle / "verify.json").read_text(encoding="utf-8"))["passed"] is True
    assert publish(recipe, workspace).up_to_date
    # One flipped byte, and the bundle is made again: the same one.
    model = first.bundle / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\x7f")
    assert not publish(recipe, workspace).up_to_date
    assert verify_bundle(first.bundle).passed
    assert json.loads(manifest)["files"] != []


def test_two_exports_of_one_checkpoint_are_the_same_bytes(pruned: Path, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        root = copied(pruned, tmp_path / name)
        recipe = recipe_of(root, data={"path": str(root / "images")})
        shutil.rmtree(root / "models" / "tiny-s30")
        publish(recipe, Workspace(root))
        files.append((root / "exports" / "tiny-s60" / "model.onnx").read_bytes())
    assert files[0] == files[1]


def test_export_never_prunes(pruned: Path) -> None:
    recipe = read_recipe(pruned / "tiny.yaml")
    with pytest.raises(InputError, match=r"make prune TARGET=0.45"):
        publish(recipe, Workspace(pruned), 0.45)


def test_export_refuses_a_level_of_another_recipe(pruned: Path, tmp_path: Path) -> None:
    """A stale level under a new recipe's name would be a bundle whose card lies."""
    root = copied(pruned, tmp_path / "project")
    with pytest.raises(InputError, match="another recipe"):
        publish(recipe_of(root, recover={"alpha": 0.9}), Workspace(root))


def test_a_failed_gate_publishes_nothing(pruned: Path, tmp_path: Path) -> None:
    root = copied(pruned, tmp_path / "project")
    recipe = recipe_of(root, verify={"max_logit_difference": 1e-12})
    with pytest.raises(GateFailedError):
        publish(recipe, Workspace(root))
    assert not (root / "exports").exists()
    verdict = json.loads((root / "models" / "tiny-s60" / "verify.json").read_text(encoding="utf-8"))
    assert [gate["name"] for gate in verdict["gates"] if not gate["passed"]] == ["logit_difference"]
    assert (root / "models" / "tiny-s60" / "candidates" / "model.onnx").exists()


def test_nan_in_the_weights_fails_the_gates(pruned: Path, tmp_path: Path) -> None:
    """A diverged level must end in a table of failed gates, not in a bundle and not in a traceback."""
    root = copied(pruned, tmp_path / "project")
    folder = root / "models" / "tiny-s60"
    state = load_file(folder / "model.safetensors")
    state["classifier.3.bias"][0] = np.nan
    save_file(state, folder / "model.safetensors")
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    record["weights"] = checkpoint_digest(folder)
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(GateFailedError):
        publish(read_recipe(root / "tiny.yaml"), Workspace(root))
    verdict = json.loads((folder / "verify.json").read_text(encoding="utf-8"))
    failed = {gate["name"] for gate in verdict["gates"] if not gate["passed"]}
    assert {"finite_weights", "finite_logits", "logit_difference", "argmax_agreement"} <= failed


def test_odd_channels_are_padded_for_the_file_only(trained: Path, tmp_path: Path) -> None:
    """`align: 1` keeps the log's exact counts; the file gets multiples of 4, and both MAC figures are told."""
    root = copied(trained, tmp_path / "project")
    recipe = recipe_of(root, prune={"align": 1, "targets": [0.5]})
    prune_to_schedule(recipe, Workspace(root), SilentReporter())
    summary = publish(recipe, Workspace(root), 0.5)
    gates = {gate.name: gate for gate in summary.verdict.gates}
    assert float(gates["padding_difference"].figure) <= 1e-5
    report = json.loads((summary.bundle / "size_report.json").read_text(encoding="utf-8"))
    assert str(summary.cost.macs) in json.dumps(report)
    text = (summary.bundle / "README.md").read_text(encoding="utf-8") + json.dumps(report)
    padded = [int(word) for word in re.findall(r"\d{6,8}", text.replace(",", ""))]
    assert any(summary.cost.macs < macs < summary.dense_cost.macs for macs in padded)


def test_audit_writes_what_it_counted(pruned: Path, tmp_path: Path) -> None:
    root = copied(pruned, tmp_path / "project")
    summary = audit_levels(read_recipe(root / "tiny.yaml"), Workspace(root), SilentReporter(), target=None)
    assert list(summary.levels) == ["s30", "s60"]
    stored = json.loads((root / "models" / "tiny-s60" / "audit.json").read_text(encoding="utf-8"))
    assert sum(stored["level"]["macs_by_operator"].values()) == summary.levels["s60"].macs
    assert sum(stored["dense"]["macs_by_operator"].values()) == summary.dense.macs > summary.levels["s60"].macs


def test_another_baseline_makes_new_levels(pruned: Path, tmp_path: Path) -> None:
    """A level belongs to the weights it was cut from."""
    root = copied(pruned, tmp_path / "project")
    recipe = recipe_of(root, train={"epochs": 1})
    assert make_baseline(recipe, Workspace(root), SilentReporter())[1]
    summary = prune_to_schedule(recipe, Workspace(root), SilentReporter(), target=0.3)
    assert not summary.outcomes[0].up_to_date


def test_a_baseline_for_other_classes_is_refused(pruned: Path, tmp_path: Path) -> None:
    root = copied(pruned, tmp_path / "project")
    (root / "images" / "disc").rename(root / "images" / "ring")
    recipe = recipe_of(root, data={"path": str(root / "images")})
    with pytest.raises(InputError, match="was trained with classes"):
        prune_to_schedule(recipe, Workspace(root), SilentReporter())


def test_a_level_of_another_baseline_is_not_exported(pruned: Path, tmp_path: Path) -> None:
    """Its card would name weights that it was not cut from."""
    root = copied(pruned, tmp_path / "project")
    recipe = recipe_of(root, train={"epochs": 1})
    make_baseline(recipe, Workspace(root), SilentReporter())
    with pytest.raises(InputError, match="another baseline"):
        publish(recipe, Workspace(root))


def test_a_missing_or_damaged_architecture_is_mended_by_pruning_again(pruned: Path, tmp_path: Path) -> None:
    root = copied(pruned, tmp_path / "project")
    (root / "models" / "tiny-s60" / "architecture.json").write_text("{}", encoding="utf-8")
    (root / "models" / "tiny-s30" / "model.safetensors").unlink()
    summary = prune_to_schedule(read_recipe(root / "tiny.yaml"), Workspace(root), SilentReporter())
    # s60 as well: its parent was made again, and is the same, so its own record still names the right inputs.
    assert [outcome.up_to_date for outcome in summary.outcomes] == [False, False]


def test_repeating_an_unreachable_target_leaves_no_new_run(pruned: Path, tmp_path: Path) -> None:
    root = copied(pruned, tmp_path / "project")
    recipe = recipe_of(root, prune={"targets": [0.3, 0.6, 0.99]})
    for _ in range(2):
        summary = prune_to_schedule(recipe, Workspace(root), SilentReporter())
        assert summary.outcomes[2].record is None
    assert len(list((root / "runs").iterdir())) == 1


def test_paths_of_this_machine_stay_here(pruned: Path, tmp_path: Path) -> None:
    """A bundle goes to strangers."""
    root = copied(pruned, tmp_path / "project")
    shutil.copytree(root / "models" / "tiny", root / "models" / "assistant")
    recipe = recipe_of(
        root, recover={"teacher": str(root / "models" / "assistant")}, data={"path": str(root / "images")}
    )
    prune_to_schedule(recipe, Workspace(root), SilentReporter(), target=0.3)
    bundle = publish(recipe, Workspace(root), 0.3).bundle
    for path in bundle.rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path


def test_all_finished_levels_are_exported_and_stale_ones_are_named(pruned: Path, tmp_path: Path) -> None:
    root = copied(pruned, tmp_path / "project")
    record = json.loads((root / "models" / "tiny-s30" / "record.json").read_text(encoding="utf-8"))
    record["inputs"]["recipe_part"] = "0" * 64
    (root / "models" / "tiny-s30" / "record.json").write_text(json.dumps(record), encoding="utf-8")
    listener = Listener()
    outcome = export_levels(read_recipe(root / "tiny.yaml"), Workspace(root), listener, target=None)
    assert [summary.level for summary in outcome.summaries] == ["s60"]
    assert any(line.startswith("s30 is left out: ") and "another recipe" in line for line in listener.lines)


def test_a_folder_of_somebody_else_is_not_replaced(trained: Path, tmp_path: Path) -> None:
    root = copied(trained, tmp_path / "project")
    (root / "precious").mkdir()
    (root / "precious" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match="did not write"):
        make_baseline(recipe_of(root, model={"baseline": "precious"}), Workspace(root), SilentReporter())
    assert (root / "precious" / "thesis.txt").exists()


def test_finished_levels_are_sorted_by_sparsity(pruned: Path) -> None:
    assert finished_levels(read_recipe(pruned / "tiny.yaml"), Workspace(pruned)) == ["s30", "s60"]


def test_another_teacher_changes_the_level(pruned: Path, tmp_path: Path) -> None:
    root = copied(pruned, tmp_path / "project")
    before = checkpoint_digest(root / "models" / "tiny-s30")
    shutil.copytree(root / "models" / "tiny-s60", root / "models" / "assistant")
    recipe = recipe_of(root, recover={"teacher": "models/assistant"})
    prune_to_schedule(recipe, Workspace(root), SilentReporter(), target=0.3)
    assert checkpoint_digest(root / "models" / "tiny-s30") != before


def test_with_compact_the_schedule_starts_without_dead_channels(pruned: Path, tmp_path: Path) -> None:
    """A unit whose weights are zero costs nothing to remove; the first step is cut from what is left."""
    root = copied(pruned, tmp_path / "project")
    recipe, workspace = recipe_of(root, prune={"scope": "all", "compact": True}), Workspace(root)
    folder = workspace.baseline_folder(recipe)
    weights = load_file(folder / "model.safetensors")
    # Eight rows of a squeeze-excite bottleneck die: weights and biases zero, so ReLU gives zero.
    for name in ("weight", "bias"):
        weights[f"features.10.block.2.fc1.{name}"][:8] = 0
    save_file(weights, folder / "model.safetensors")
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    record["weights"] = checkpoint_digest(folder)
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    summary = prune_to_schedule(recipe, workspace, SilentReporter(), target=0.3)
    first = summary.outcomes[0].record
    assert first is not None
    assert first.parent_level == "compact"
    compact = json.loads((root / "models" / "tiny-compact" / "record.json").read_text(encoding="utf-8"))
    assert first.inputs.parent == compact["weights"]
    assert first.plan.removed_before >= 8
