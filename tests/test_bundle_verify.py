"""Checking a bundle: whatever is wrong with it fails a gate that says so, with and without onnxruntime."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle_factory import SIZE, edit_json, metadata, publish, reseal, snapshot, write_model

from edgeprune.errors import InputError
from edgeprune.results import Gate
from edgeprune.verify.bundle import BundleCheck, verify_bundle

PATHS = [
    "README.md",
    "config.yaml",
    *(f"golden/{index:02}.rgb" for index in range(8)),
    *(f"golden/model_onnx/{index:02}.{kind}" for index in range(4) for kind in ("input", "output")),
    "golden/golden.json",
    "labels.txt",
    "manifest.json",
    "model.onnx",
    "preprocess.json",
    "size_report.json",
    "size_report.md",
    "verify.json",
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    model = write_model(folder / "candidate" / "model.onnx", metadata().as_text())
    return publish(folder / "exports", model).folder


@pytest.fixture
def bundle(published: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(published, tmp_path / published.name))


def _failed(check: BundleCheck) -> list[str]:
    return [gate.name for gate in check.gates if not gate.passed]


def _gate(check: BundleCheck, name: str) -> Gate:
    return next(gate for gate in check.gates if gate.name == name)


def _states(check: BundleCheck) -> dict[str, str]:
    return {file.path: file.state for file in check.files}


def test_a_bundle_as_published_passes_every_gate_and_every_file_is_checked(published: Path) -> None:
    check = verify_bundle(published)
    assert [gate.name for gate in check.gates] == [
        "manifest",
        "verdict",
        "recorded_gates",
        "bundle_texts",
        "vectors:model.onnx",
        "onnx_checker:model.onnx",
        "single_file:model.onnx",
        "finite_weights:model.onnx",
        "metadata:model.onnx",
        "golden:model.onnx",
    ]
    assert check.passed
    assert check.complete
    assert check.bundle == "elpv96-s60"
    assert set(_states(check)) == set(PATHS) - {"manifest.json"}


def test_the_tests_know_every_file_of_a_bundle(published: Path) -> None:
    assert sorted(snapshot(published)) == sorted(PATHS)


@pytest.mark.parametrize("path", PATHS)
def test_one_flipped_byte_in_any_file_fails(path: str, bundle: Path) -> None:
    """The manifest itself included: there may be no catalogue to hold it against."""
    content = bytearray((bundle / path).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / path).write_bytes(content)
    check = verify_bundle(bundle)
    assert not check.passed
    assert not check.complete
    assert _failed(check) == ["manifest"]
    if path != "manifest.json":
        assert path in check.gates[0].detail
        assert [name for name, state in _states(check).items() if state == "failed"] == [path]


@pytest.mark.parametrize("step", range(16))
def test_a_byte_flipped_anywhere_in_the_manifest_fails(step: int, bundle: Path) -> None:
    path = bundle / "manifest.json"
    content = path.read_bytes()
    for position in range(step, len(content), 16):
        spoilt = bytearray(content)
        spoilt[position] ^= 1
        path.write_bytes(spoilt)
        assert not verify_bundle(bundle).passed, (position, content[position - 20 : position + 20])


@pytest.mark.parametrize("path", [path for path in PATHS if path != "manifest.json"])
def test_a_missing_file_fails_by_name(path: str, bundle: Path) -> None:
    (bundle / path).unlink()
    check = verify_bundle(bundle)
    assert not check.passed
    assert f"{path} is missing" in check.gates[0].detail


def test_a_file_that_the_manifest_does_not_list_fails_by_name(bundle: Path) -> None:
    (bundle / "golden/payload.py").write_text("print('hello')")
    check = verify_bundle(bundle)
    assert not check.passed
    assert "golden/payload.py is not in the manifest" in check.gates[0].detail


def test_a_link_is_not_followed_even_to_the_right_bytes(bundle: Path, tmp_path: Path) -> None:
    """What a link points to can change after the check."""
    (bundle / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (bundle / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    assert "model.onnx is a link" in verify_bundle(bundle).gates[0].detail


def test_a_linked_folder_is_not_followed_either(bundle: Path, tmp_path: Path) -> None:
    (bundle / "golden").rename(tmp_path / "elsewhere")
    (bundle / "golden").symlink_to(tmp_path / "elsewhere")
    assert "golden/00.rgb is a link" in verify_bundle(bundle).gates[0].detail


def test_a_model_that_is_damaged_is_not_opened(bundle: Path) -> None:
    """A parser of untrusted bytes is the last thing to run before the digest is known to be right."""
    (bundle / "model.onnx").write_bytes(b"not a model")
    check = verify_bundle(bundle)
    assert [gate.name for gate in check.gates] == ["manifest"]
    assert _states(check)["golden/00.rgb"] == "not checked"


def test_swapped_labels_fail_although_every_digest_fits(bundle: Path) -> None:
    """The most expensive mistake there is: everything works, and every answer is the opposite."""
    (bundle / "labels.txt").write_text("defective\nfunctional\n")
    reseal(bundle)
    check = verify_bundle(bundle)
    assert _failed(check) == ["metadata:model.onnx"]
    assert "labels" in _gate(check, "metadata:model.onnx").detail
    assert _states(check)["labels.txt"] == "failed"
    assert _states(check)["model.onnx"] == "failed"
    assert _states(check)["README.md"] == "checked"


@pytest.mark.parametrize(
    "change",
    [{"mean": [0.5, 0.456, 0.406]}, {"std": [0.5, 0.224, 0.225]}, {"image_size": SIZE + 1}, {"scale": 1.0}],
    ids=lambda change: next(iter(change)),
)
def test_preprocessing_that_is_not_the_models_fails(change: dict[str, object], bundle: Path) -> None:
    edit_json(bundle / "preprocess.json", change)
    reseal(bundle)
    check = verify_bundle(bundle)
    key = next(iter(change))
    gate = "bundle_texts" if key == "scale" else "metadata:model.onnx"
    assert key in _gate(check, gate).detail
    assert gate in _failed(check)
    assert _states(check)["preprocess.json"] == "failed"


def test_a_rotated_golden_image_fails(bundle: Path) -> None:
    path = bundle / "golden/03.rgb"
    pixels = np.fromfile(path, np.uint8).reshape(SIZE, SIZE, 3)
    path.write_bytes(np.ascontiguousarray(np.rot90(pixels)).tobytes())
    reseal(bundle)
    check = verify_bundle(bundle)
    assert _failed(check) == ["vectors:model.onnx", "golden:model.onnx"]
    assert "golden/model_onnx/03.input is not what" in _gate(check, "vectors:model.onnx").detail
    assert "golden/03.rgb" in _gate(check, "golden:model.onnx").detail
    assert float(_gate(check, "golden:model.onnx").figure) > 0.01
    assert _states(check)["golden/03.rgb"] == _states(check)["golden/model_onnx/03.input"] == "failed"
    assert _states(check)["labels.txt"] == "checked"


def test_colours_in_the_wrong_order_fail(bundle: Path) -> None:
    for path in (bundle / "golden").glob("*.rgb"):
        pixels = np.fromfile(path, np.uint8).reshape(SIZE, SIZE, 3)
        path.write_bytes(pixels[:, :, ::-1].tobytes())
    reseal(bundle)
    assert _failed(verify_bundle(bundle)) == ["vectors:model.onnx", "golden:model.onnx"]


def test_raw_inputs_that_preprocessing_does_not_make_fail(bundle: Path) -> None:
    """A device that replays them would be told that it is right while it does something else with real images."""
    path = bundle / "golden/model_onnx/01.input"
    path.write_bytes((np.fromfile(path, "<f4").reshape(3, SIZE, SIZE)[::-1]).tobytes())
    reseal(bundle)
    check = verify_bundle(bundle)
    assert _failed(check) == ["vectors:model.onnx"]
    detail = _gate(check, "vectors:model.onnx").detail
    assert "golden/model_onnx/01.input is not what preprocess.json makes of golden/01.rgb" in detail
    assert _states(check)["golden/model_onnx/01.input"] == "failed"


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_raw_outputs_that_golden_json_does_not_say_fail(value: float, bundle: Path) -> None:
    path = bundle / "golden/model_onnx/02.output"
    outputs = np.fromfile(path, "<f4")
    outputs[1] = value
    path.write_bytes(outputs.tobytes())
    reseal(bundle)
    check = verify_bundle(bundle)
    assert _failed(check) == ["vectors:model.onnx"]
    assert "golden/model_onnx/02.output is not what golden.json says: 1 of 2" in _gate(check, _failed(check)[0]).detail


def test_vectors_that_are_cut_short_or_left_out_fail(bundle: Path) -> None:
    path = bundle / "golden/model_onnx/00.input"
    path.write_bytes(path.read_bytes()[:-4])
    reseal(bundle)
    assert _failed(verify_bundle(bundle)) == ["vectors:model.onnx"]
    record = json.loads((bundle / "golden/golden.json").read_text())
    record["files"][0]["vectors"] = []
    edit_json(bundle / "golden/golden.json", record)
    reseal(bundle)
    check = verify_bundle(bundle)
    assert _failed(check) == ["bundle_texts", "vectors:model.onnx"]
    assert "does not name golden/model_onnx/00.input" in _gate(check, "bundle_texts").detail


def test_another_model_under_the_same_name_fails(bundle: Path) -> None:
    write_model(bundle / "model.onnx", metadata().as_text(), weight_scale=1.01)
    reseal(bundle)
    assert _failed(verify_bundle(bundle)) == ["golden:model.onnx"]


def test_nan_from_the_model_is_drift_not_agreement(bundle: Path) -> None:
    """NaN compares false with everything, so `difference > tolerance` would let it pass."""
    write_model(bundle / "model.onnx", metadata().as_text(), weight_scale=float("nan"))
    reseal(bundle)
    check = verify_bundle(bundle)
    assert _failed(check) == ["finite_weights:model.onnx", "golden:model.onnx"]
    assert _gate(check, "golden:model.onnx").figure == "nan"


@pytest.mark.parametrize(
    "change", [{"level": "s10"}, {"name": "other"}, {"version": "9.9"}, {"layout": "NHWC RGB float32"}]
)
def test_a_model_of_another_bundle_fails(change: dict[str, str], bundle: Path) -> None:
    write_model(bundle / "model.onnx", metadata(**change).as_text())
    reseal(bundle)
    check = verify_bundle(bundle)
    assert _failed(check) == ["metadata:model.onnx"]
    assert next(iter(change)) in _gate(check, "metadata:model.onnx").detail


def test_a_model_without_our_metadata_fails_and_names_what_is_missing(bundle: Path) -> None:
    write_model(bundle / "model.onnx", {"labels": '["functional", "defective"]'})
    reseal(bundle)
    check = verify_bundle(bundle)
    assert _failed(check) == ["metadata:model.onnx"]
    assert "metadata `name`" in _gate(check, "metadata:model.onnx").detail


def test_what_onnxruntime_cannot_load_fails(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"not a model")
    reseal(bundle)
    check = verify_bundle(bundle)
    assert _failed(check) == ["metadata:model.onnx"]
    assert "cannot be loaded" in _gate(check, "metadata:model.onnx").detail


@pytest.mark.parametrize(
    "change",
    [
        {"passed": False},
        {"gates": [{"name": "drop", "figure": 0.1, "limit": "<= 0.03", "passed": False, "detail": ""}]},
        {"gates": []},
    ],
)
def test_a_verdict_that_did_not_pass_fails(change: dict[str, object], bundle: Path) -> None:
    """Somebody published by hand what publish refuses."""
    edit_json(bundle / "verify.json", change)
    reseal(bundle)
    check = verify_bundle(bundle)
    assert _failed(check) == ["verdict"]
    assert _states(check)["verify.json"] == "failed"
    assert _states(check)["model.onnx"] == "checked"


@pytest.mark.parametrize("path", ["golden/golden.json", "preprocess.json", "verify.json"])
def test_a_text_that_is_not_json_fails_a_gate_and_raises_nothing(path: str, bundle: Path) -> None:
    (bundle / path).write_text("{")
    reseal(bundle)
    check = verify_bundle(bundle)
    assert not check.passed
    assert _states(check)[path] == "failed"


@pytest.mark.parametrize("path", ["/etc/hostname", "../outside.rgb", "README.md"])
def test_golden_json_cannot_name_a_file_that_is_not_a_golden_image(path: str, bundle: Path) -> None:
    record = json.loads((bundle / "golden/golden.json").read_text())
    record["images"][0]["path"] = path
    edit_json(bundle / "golden/golden.json", record)
    reseal(bundle)
    check = verify_bundle(bundle)
    assert _failed(check) == ["bundle_texts"]
    assert repr(path) in _gate(check, "bundle_texts").detail


@pytest.mark.parametrize("text", ["golden/golden.json", "preprocess.json"])
def test_a_text_about_another_model_only_is_not_enough(text: str, bundle: Path) -> None:
    """A model that no text is about must not count as checked."""
    record = json.loads((bundle / text).read_text())
    record["files"][0]["path"] = "other.onnx"
    edit_json(bundle / text, record)
    reseal(bundle)
    check = verify_bundle(bundle)
    assert _failed(check) == ["bundle_texts", "vectors:model.onnx"]
    assert f"{text} is about other.onnx" in _gate(check, "bundle_texts").detail
    assert _states(check)["model.onnx"] == "failed"


def test_a_folder_without_a_manifest_is_an_input_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="is not a bundle") as error:
            verify_bundle(folder)
        assert error.value.exit_code == 2


_WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
"""


def _run_without(names: set[str], program: str, *arguments: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT.format(names=names) + program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    return done.stdout


_VERIFY = """
from pathlib import Path
from edgeprune.verify.bundle import verify_bundle
check = verify_bundle(Path(sys.argv[1]))
print(check.passed, check.complete)
print(*check.files, sep="\\n")
"""


def test_the_base_install_checks_bytes_and_says_what_it_did_not_check(bundle: Path) -> None:
    """Without numpy and onnxruntime: nothing is claimed that was not looked at."""
    lines = _run_without({"numpy", "onnxruntime", "onnx", "torch"}, _VERIFY, bundle).splitlines()
    assert lines[0] == "True False"
    assert "model.onnx: not checked: needs extra verify" in lines
    assert "golden/00.rgb: not checked: needs extra verify" in lines
    assert "README.md: checked" in lines
    (bundle / "model.onnx").write_bytes(b"spoilt")
    assert _run_without({"numpy", "onnxruntime", "torch"}, _VERIFY, bundle).startswith("False False")


def test_a_whole_check_needs_no_torch(bundle: Path) -> None:
    assert _run_without({"torch", "torchvision", "onnx"}, _VERIFY, bundle).startswith("True True")


def test_the_base_install_pulls(published: Path, tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\nfrom edgeprune.publish.pull import pull_bundle\n"
        "print(pull_bundle(source=sys.argv[1], name=None, to=Path(sys.argv[2]), say=lambda line: None).folder)\n"
    )
    blocked = {"numpy", "onnxruntime", "onnx", "torch", "requests", "PIL"}
    folder = _run_without(blocked, program, published.parent, tmp_path / "to").strip()
    assert snapshot(Path(folder)) == snapshot(published)
