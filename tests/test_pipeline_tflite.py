"""The way to a bundle with TFLite files, on a small network and images of our own, in the real runtimes."""

import json
import shutil
from pathlib import Path

import pytest
from tiny import make_images, write_recipe

from edgeprune.errors import GateFailedError
from edgeprune.pipeline import SilentReporter, Workspace, export_levels, make_baseline, prune_to_schedule
from edgeprune.recipe import read_recipe
from edgeprune.verify.bundle import verify_bundle

pytestmark = pytest.mark.long
FORMATS = ["onnx", "tflite", "tflite_int8"]


def recipe_for(root: Path, **changes: object):
    """A schedule of one level, and limits that a small network on small images can keep."""
    write_recipe(
        root / "tiny.yaml",
        root / "images",
        prune={"targets": [0.3]},
        export={"formats": FORMATS},
        quantise={"images": 64, "epochs": 2, "qat": "always"},
        verify={"max_accuracy_drop": 1.0, "max_int8_drop": 1.0, "min_int8_agreement": 0.0, "min_int8_sqnr_db": 0.001}
        | changes,
    )
    return read_recipe(root / "tiny.yaml")


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
    assert {"model.onnx", "model.tflite", "model_int8.tflite"} <= {path.name for path in bundle.iterdir()}
    check = verify_bundle(bundle)
    assert check.passed, [gate for gate in check.gates if not gate.passed]
    assert check.complete, [file for file in check.files if file.state != "checked"]
    assert {"golden:model_int8.tflite", "golden_tflm:model_int8.tflite"} <= {gate.name for gate in check.gates}


def test_what_was_chosen_for_int8_is_kept_and_used_again(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training takes minutes; nobody waits twice for it."""
    kept = json.loads((exported / "models" / "tiny-s30" / "int8.json").read_text(encoding="utf-8"))
    assert [trial["method"] for trial in kept["trials"]][-1] == "trained"
    shutil.rmtree(exported / "exports")
    before = (exported / "models" / "tiny-s30" / "candidates" / "model_int8.tflite").read_bytes()

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("edgeprune.pipeline.int8.recover_int8", never)
    outcome = export_levels(recipe_for(exported), Workspace(exported), SilentReporter(), target=0.3)
    assert not outcome.failures
    assert (exported / "exports" / "tiny-s30" / "model_int8.tflite").read_bytes() == before


def test_an_int8_file_that_falls_short_publishes_nothing(exported: Path) -> None:
    shutil.rmtree(exported / "exports", ignore_errors=True)
    recipe = recipe_for(exported, min_int8_sqnr_db=150.0)
    outcome = export_levels(recipe, Workspace(exported), SilentReporter(), target=0.3)
    assert isinstance(outcome.failures["s30"], GateFailedError)
    assert not (exported / "exports" / "tiny-s30").exists()
    verdict = json.loads((exported / "models" / "tiny-s30" / "verify.json").read_text(encoding="utf-8"))
    assert [gate["name"] for gate in verdict["gates"] if not gate["passed"]] == ["int8_sqnr_db:model_int8.tflite"]
