"""The way to a bundle with every kind of file, on a small network and images of our own, in the real runtimes."""

import json
import shutil
from pathlib import Path

import pytest
from tiny import make_images, write_recipe

import edgeprune.devices
from edgeprune.errors import GateFailedError
from edgeprune.pipeline import SilentReporter, Workspace, export_levels, make_baseline, prune_to_schedule
from edgeprune.recipe import Recipe, read_recipe
from edgeprune.verify.bundle import verify_bundle

pytestmark = pytest.mark.long
FORMATS = ["onnx", "onnx_int8", "tflite", "tflite_int8", "c"]


def recipe_for(
    root: Path,
    *,
    device: str | None = None,
    pad: str = "keep",
    targets: list[float] | None = None,
    model: dict[str, str] | None = None,
    **limits: object,
) -> Recipe:
    """A short schedule, and limits that a small network on small images can keep."""
    loose = {"max_accuracy_drop": 1.0, "max_int8_drop": 1.0, "min_int8_agreement": 0.0, "min_int8_sqnr_db": 0.001}
    sections: dict[str, object] = {
        "prune": {"targets": targets or [0.3]},
        "export": {
            "formats": FORMATS,
            "device": device,
            "pad": pad,
            "golden": "drawn",
            "threshold": "balanced_accuracy",
        },
        "quantise": {"images": 64, "epochs": 2, "qat": "always"},
        "verify": loose | limits,
    }
    write_recipe(root / "tiny.yaml", root / "images", **sections, **({"model": model} if model else {}))
    return read_recipe(root / "tiny.yaml")


def copied(source: Path, to: Path) -> Path:
    shutil.copytree(source, to)
    return to


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tflite")
    make_images(root / "images")
    recipe, workspace, listener = recipe_for(root), Workspace(root), SilentReporter()
    make_baseline(recipe, workspace, listener)
    prune_to_schedule(recipe, workspace, listener)
    outcome = export_levels(recipe, workspace, listener, target=0.3)
    for failure in outcome.failures.values():
        raise failure
    return root


def test_the_bundle_holds_every_file_and_all_of_it_checks(exported: Path) -> None:
    bundle = exported / "exports" / "tiny-s30"
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*")}
    assert {
        "model.onnx",
        "model_int8.onnx",
        "model.tflite",
        "model_int8.tflite",
        "c/self_test.cc",
        "c/README.md",
    } <= files
    assert not any(name.startswith("vela/") for name in files)
    check = verify_bundle(bundle)
    assert check.passed, [gate for gate in check.gates if not gate.passed]
    assert check.complete, [file for file in check.files if file.state != "checked"]
    assert {"golden:model_int8.tflite", "golden_tflm:model_int8.tflite"} <= {gate.name for gate in check.gates}


def test_each_file_is_cut_at_its_own_threshold_and_firmware_at_that_of_its_file(exported: Path) -> None:
    """Chosen on validation; the C++ source is written before the bundle is, and must not hold another number."""
    bundle = exported / "exports" / "tiny-s30"
    record = json.loads((bundle / "threshold.json").read_text(encoding="utf-8"))
    cuts = {file["path"]: file["difference"] for file in record["files"]}
    assert set(cuts) == {"model.onnx", "model_int8.onnx", "model.tflite", "model_int8.tflite"}
    assert isinstance(cuts["model_int8.tflite"], int)
    settings = (bundle / "c" / "model_settings.h").read_text(encoding="utf-8")
    assert f"constexpr int32_t kDecisionDifference = {cuts['model_int8.tflite']};" in settings
    report = json.loads((bundle / "size_report.json").read_text(encoding="utf-8"))
    assert {file["path"]: file["operating"]["difference"] for file in report["files"]} == cuts
    assert all(file["operating"] is None for file in report["dense_files"])


def test_drawn_golden_images_come_with_a_gate_on_how_far_answers_move(exported: Path) -> None:
    bundle = exported / "exports" / "tiny-s30"
    golden = json.loads((bundle / "golden" / "golden.json").read_text(encoding="utf-8"))
    assert all(image["name"].startswith("drawn-") for image in golden["images"])
    gates = json.loads((bundle / "verify.json").read_text(encoding="utf-8"))["gates"]
    spread = {gate["name"] for gate in gates if gate["name"].startswith("golden_spread:")}
    assert spread == {f"golden_spread:{file['path']}" for file in golden["files"]}


def test_what_was_chosen_for_int8_is_kept_and_used_again(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training takes minutes; nobody waits twice for it."""
    root = copied(exported, tmp_path / "project")
    kept = json.loads((root / "models" / "tiny-s30" / "int8.json").read_text(encoding="utf-8"))
    assert [trial["method"] for trial in kept["trials"]][-1] == "trained"
    shutil.rmtree(root / "exports")
    before = (root / "models" / "tiny-s30" / "candidates" / "model_int8.tflite").read_bytes()

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("edgeprune.pipeline.int8.recover_int8", never)
    outcome = export_levels(recipe_for(root), Workspace(root), SilentReporter(), target=0.3)
    assert not outcome.failures
    assert (root / "exports" / "tiny-s30" / "model_int8.tflite").read_bytes() == before


def test_an_int8_file_that_falls_short_publishes_nothing(exported: Path, tmp_path: Path) -> None:
    root = copied(exported, tmp_path / "project")
    shutil.rmtree(root / "exports")
    recipe = recipe_for(root, min_int8_sqnr_db=150.0)
    outcome = export_levels(recipe, Workspace(root), SilentReporter(), target=0.3)
    assert isinstance(outcome.failures["s30"], GateFailedError)
    assert not (root / "exports" / "tiny-s30").exists()
    verdict = json.loads((root / "models" / "tiny-s30" / "verify.json").read_text(encoding="utf-8"))
    failed = {gate["name"] for gate in verdict["gates"] if not gate["passed"]}
    assert failed == {"int8_sqnr_db:model_int8.onnx", "int8_sqnr_db:model_int8.tflite"}


def test_without_a_device_the_report_says_where_the_level_fits(exported: Path) -> None:
    report = json.loads((exported / "exports" / "tiny-s30" / "size_report.json").read_text(encoding="utf-8"))
    assert report["device"] is None
    assert len({fit["device"] for fit in report["fits"]}) >= 12
    text = (exported / "exports" / "tiny-s30" / "size_report.md").read_text(encoding="utf-8")
    assert "## Does it fit?" in text
    assert "STM32F746G-DISCO" in text


def test_a_device_with_an_ethos_u_gets_what_vela_compiles(exported: Path, tmp_path: Path) -> None:
    root = copied(exported, tmp_path / "project")
    recipe = recipe_for(root, device="corstone300_u55")
    outcome = export_levels(recipe, Workspace(root), SilentReporter(), target=0.3)
    assert not outcome.failures
    gates = {gate.name: gate for gate in outcome.summaries[0].verdict.gates}
    assert gates["npu_cpu_operators:model_int8.tflite"].figure == 0
    assert gates["device_ram:corstone300_u55"].passed
    bundle = root / "exports" / "tiny-s30"
    assert (bundle / "vela" / "model_int8_vela.tflite").is_file()
    assert verify_bundle(bundle).complete
    assert "Vela" in (bundle / "size_report.md").read_text(encoding="utf-8")


def test_what_does_not_fit_publishes_nothing_and_names_the_shortfall(exported: Path, tmp_path: Path) -> None:
    root = copied(exported, tmp_path / "project")
    shutil.rmtree(root / "exports")
    profile = Path(edgeprune.devices.__file__).with_name("nano33ble.toml").read_text(encoding="utf-8")
    own = profile.replace('id = "nano33ble"', 'id = "mine"').replace("ram_bytes = 262_144", "ram_bytes = 10_000")
    assert own.count("10_000") == 1
    (root / "mine.toml").write_text(own, encoding="utf-8")
    outcome = export_levels(
        recipe_for(root, device=str(root / "mine.toml")), Workspace(root), SilentReporter(), target=0.3
    )
    assert isinstance(outcome.failures["s30"], GateFailedError)
    verdict = json.loads((root / "models" / "tiny-s30" / "verify.json").read_text(encoding="utf-8"))
    failed = {gate["name"]: gate["detail"] for gate in verdict["gates"] if not gate["passed"]}
    assert set(failed) == {"device_ram:mine", "device_flash:mine"}
    assert all("bytes short" in detail and "what would help: " in detail for detail in failed.values())
    assert not (root / "exports" / "tiny-s30").exists()


def test_rotation_leaves_no_pad_operator_and_equals_the_plain_export(tmp_path: Path) -> None:
    """The files' names say how they are fed.

    A network of some seconds' training amplifies the one step by which the two runtimes may differ, so whether its
    bundle is published is not asked here.
    """
    make_images(tmp_path / "images")
    recipe = recipe_for(tmp_path, pad="rotate", model={"network": "mobilenet_v3_small", "weights": "none"})
    make_baseline(recipe, Workspace(tmp_path), SilentReporter())
    prune_to_schedule(recipe, Workspace(tmp_path), SilentReporter())
    export_levels(recipe, Workspace(tmp_path), SilentReporter(), target=0.3)
    level = tmp_path / "models" / "tiny-s30"
    verdict = json.loads((level / "verify.json").read_text(encoding="utf-8"))
    gates = {gate["name"]: gate["passed"] for gate in verdict["gates"]}
    assert gates["rotation_difference:model_rot180.tflite"]
    assert gates["pad_operators:model_rot180.tflite"]
    assert gates["pad_operators:model_int8_rot180.tflite"]
    assert gates["c_preprocess"]
    assert {"model_rot180.tflite", "model_int8_rot180.tflite"} <= {path.name for path in level.glob("candidates/*")}


def test_several_levels_are_exported_side_by_side(exported: Path, tmp_path: Path) -> None:
    """Each in a process of its own; one that fails does not keep the others back."""
    root = copied(exported, tmp_path / "project")
    shutil.rmtree(root / "exports")
    recipe = recipe_for(root, targets=[0.3, 0.5])
    prune_to_schedule(recipe, Workspace(root), SilentReporter())
    outcome = export_levels(recipe, Workspace(root), SilentReporter(), target=None)
    assert not outcome.failures
    assert [summary.level for summary in outcome.summaries] == ["s30", "s50"]
    for summary in outcome.summaries:
        assert verify_bundle(summary.bundle).complete
    again = export_levels(recipe, Workspace(root), SilentReporter(), target=None)
    assert all(summary.up_to_date for summary in again.summaries)
