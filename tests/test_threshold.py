"""Where two classes are cut: chosen on validation, compared in whole numbers, the same in every place that says it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from bundle_factory import MEAN, SIZE, STD, ask_model, edit_json, metadata, reseal, write_model
from cut_bundles import int8_bundle, onnx_bundle
from firmware_files import NAMESPACE, render_again, tiny_firmware
from hypothesis import given
from hypothesis import strategies as st
from programs import needs
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from edgeprune.data import Dataset, PackedSplit
from edgeprune.errors import InputError
from edgeprune.manifest import FileEntry, make_manifest, parse_manifest
from edgeprune.pipeline.operating import choose_operating_point, require_two_classes
from edgeprune.recipe import Recipe
from edgeprune.threshold import (
    OperatingPoint,
    area_under_roc,
    choose_difference,
    count_decisions,
    criterion_value,
    decide_positive,
    difference_at,
    probability_at,
)
from edgeprune.verify.bundle import BundleCheck, verify_bundle

# --- choosing


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of int8 or float files, few enough distinct ones for ties, and labels of both classes."""
    labels = np.asarray([0, 1, *draw(st.lists(st.integers(0, 1), min_size=1, max_size=20))])
    rows = draw(st.lists(st.tuples(*[st.integers(-6, 6)] * 2), min_size=len(labels), max_size=len(labels)))
    outputs = np.asarray(rows, np.int8)
    return (outputs if draw(st.booleans()) else outputs.astype(np.float32) / 4), labels


@given(answers(), st.sampled_from(["accuracy", "balanced_accuracy"]))
def test_no_other_cut_that_splits_the_images_is_better(
    given_answers: tuple[np.ndarray, np.ndarray], criterion: str
) -> None:
    outputs, labels = given_answers
    chosen = choose_difference(outputs, labels, criterion)
    margins = np.unique(outputs[:, 1].astype(float) - outputs[:, 0].astype(float))

    def worth(cut: float) -> float:
        return criterion_value(count_decisions(outputs, labels, cut), criterion)

    assert worth(chosen) == max(worth(cut) for cut in (*margins[:-1], 0))
    if worth(0) == worth(chosen) and 0 < decide_positive(outputs, 0).sum() < len(labels):
        assert chosen == 0, "argmax is as good, and no reason to leave it"
    assert isinstance(chosen, int) == (outputs.dtype == np.int8)


def test_argmax_stays_where_every_cut_is_worse() -> None:
    """All answers on one side of it: a cut that splits the images would lose some for nothing."""
    outputs = np.asarray([[0, 9], [0, 1], [0, 2], [0, 3], [0, 4]], np.int8)
    assert choose_difference(outputs, np.asarray([0, 1, 1, 1, 1]), "accuracy") == 0
    assert choose_difference(-outputs, np.asarray([1, 0, 0, 0, 0]), "accuracy") == 0


def test_the_cut_lies_in_the_middle_between_two_images() -> None:
    """On the edge of what it was chosen on, a threshold would be wrong for the next image beside it."""
    outputs = np.asarray([[0, 10], [0, 20], [0, 31]], np.int8)
    assert choose_difference(outputs, np.asarray([0, 0, 1]), "accuracy") == 25
    assert choose_difference(outputs.astype(np.float32), np.asarray([0, 0, 1]), "accuracy") == 25.5


def test_a_detector_that_never_fires_is_no_answer_to_rare_positives() -> None:
    """Nine in ten images right, by saying nothing."""
    outputs = np.asarray([[0, value] for value in (1, 2, 3, 4, 5, 6, 7, 8, 9, 0)], np.int8)
    labels = np.asarray([0] * 9 + [1])
    chosen = choose_difference(outputs, labels, "accuracy")
    assert 0 < decide_positive(outputs, chosen).sum() < len(labels)


@given(answers())
def test_the_area_under_the_curve_is_scikit_learns(given_answers: tuple[np.ndarray, np.ndarray]) -> None:
    outputs, labels = given_answers
    margins = outputs[:, 1].astype(float) - outputs[:, 0].astype(float)
    assert area_under_roc(outputs, labels) == pytest.approx(roc_auc_score(labels, margins))


@given(answers())
def test_balanced_accuracy_is_scikit_learns(given_answers: tuple[np.ndarray, np.ndarray]) -> None:
    outputs, labels = given_answers
    found = criterion_value(count_decisions(outputs, labels, 1), "balanced_accuracy")
    assert found == pytest.approx(balanced_accuracy_score(labels, decide_positive(outputs, 1)))


@given(st.floats(-8, 8), st.floats(-8, 8), st.floats(0.01, 0.99))
def test_a_difference_decides_as_the_probability_that_it_stands_for(first: float, second: float, limit: float) -> None:
    softmax = np.exp([first, second]) / np.exp([first, second]).sum()
    if abs(softmax[1] - limit) > 1e-9:
        outputs = np.asarray([[first, second]])
        assert bool(decide_positive(outputs, difference_at(limit))[0]) == bool(softmax[1] > limit)
    assert probability_at(difference_at(limit)) == pytest.approx(limit)


def test_an_image_with_nan_counts_as_wrong_and_chooses_nothing() -> None:
    """NaN is above no threshold, so every negative image with one would count as right."""
    nan = float("nan")
    outputs = np.asarray([[0, -1], [0, 1], [nan, 0], [0, nan]], np.float32)
    labels = np.asarray([0, 1, 0, 1])
    assert count_decisions(outputs, labels, 0) == ((1, 1), (1, 1))
    assert choose_difference(outputs, labels, "accuracy") == 0
    assert area_under_roc(outputs, labels) == 0.5


# --- the recipe


def split_of(name: str, images: np.ndarray, labels: np.ndarray) -> PackedSplit:
    return PackedSplit(name=name, images=images, labels=labels, names=tuple(map(str, range(len(images)))))


def dataset_of(val: PackedSplit, test: PackedSplit) -> Dataset:
    return Dataset(
        source="imagefolder",
        classes=("functional", "defective"),
        image_size=SIZE,
        train=val,
        val=val,
        test=test,
        digest="0" * 64,
        split_digest="1" * 64,
        skipped=(),
        credit="made by the tests",
    )


def recipe_with(threshold: str) -> Recipe:
    return Recipe(
        name="tiny",
        data={"image_size": SIZE, "mean": MEAN, "std": STD},
        export={"formats": ("onnx",), "threshold": threshold},
    )


def test_the_choice_is_made_on_validation_by_the_file_and_test_only_measures_it(tmp_path: Path) -> None:
    """A threshold that has seen test flatters every figure beside it."""
    model = write_model(tmp_path / "model.onnx", metadata().as_text())
    images = np.random.default_rng(3).integers(0, 256, (40, SIZE, SIZE, 3), dtype=np.uint8)
    margins = np.subtract(*ask_model(model, images).T[::-1])
    low, high = np.sort(margins)[29:31]
    val = split_of("val", images, (margins > low).astype(np.int64))

    def choose(right: int, threshold: str = "balanced_accuracy") -> OperatingPoint | None:
        outputs = np.asarray([[0, high + 1]] * right + [[0, 0]] * (20 - right), np.float32)
        test = split_of("test", images[:20], np.ones(20, np.int64))
        return choose_operating_point(
            recipe_with(threshold), dataset_of(val, test), model, outputs, input=None, output=None
        )

    point, other = choose(20), choose(5)
    assert point is not None
    assert other is not None
    assert point.difference == other.difference == pytest.approx((low + high) / 2, rel=1e-5)
    assert point.val == other.val == ((30, 0), (0, 10))
    assert criterion_value(point.val_argmax, "balanced_accuracy") < 1
    assert (point.accuracy.correct, other.accuracy.correct, point.accuracy.n) == (20, 5, 20)
    assert choose(20, "none") is None


def test_a_threshold_for_three_classes_is_refused_before_anything_is_exported() -> None:
    with pytest.raises(InputError, match="which is for 2 classes; the images have 3"):
        require_two_classes(recipe_with("accuracy"), ("a", "b", "c"))
    require_two_classes(recipe_with("none"), ("a", "b", "c"))


# --- firmware


@needs("g++", package="g++")
def test_firmware_decides_as_python_does_for_every_pair_of_outputs(tmp_path: Path) -> None:
    """65,536 pairs: the difference of two bytes does not fit a byte."""
    for name, content in render_again(tiny_firmware(), decision_difference=-37).items():
        if name.endswith(("settings.h", "settings.cc")):
            (tmp_path / Path(name).name).write_bytes(content)
    (tmp_path / "main.cc").write_text(
        '#include <cstdio>\n#include "model_settings.h"\nint main() {\n'
        "  for (int a = -128; a < 128; ++a)\n    for (int b = -128; b < 128; ++b) {\n"
        "      const int8_t output[] = {static_cast<int8_t>(a), static_cast<int8_t>(b)};\n"
        f"      std::putchar(static_cast<int>('0' + {NAMESPACE}::DecideLabel(output)));\n    }}\n}}\n"
    )
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wpedantic", "main.cc", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "main"], capture_output=True, check=True).stdout
    values = np.arange(-128, 128, dtype=np.int8)
    pairs = np.stack(np.meshgrid(values, values, indexing="ij"), axis=-1).reshape(-1, 2)
    assert np.array_equal(np.frombuffer(said, np.uint8) == ord("1"), decide_positive(pairs, -37))


def test_source_without_a_threshold_does_not_speak_of_one() -> None:
    files = tiny_firmware().files
    assert not [name for name, content in files.items() if re.search(rb"Decision|DecideLabel|Deciding", content)]


def test_firmware_says_that_golden_images_are_drawn() -> None:
    """Whoever reads `kGoldenLabels` must know what they are worth."""
    drawn, real = (render_again(tiny_firmware(), drawn=flag)["c/golden.h"].decode() for flag in (True, False))
    assert "// Golden images (drawn)" in drawn
    assert "// Indices into kLabels: what was drawn" in drawn
    assert "// Golden images (real)" in real
    assert "// Indices into kLabels: the true classes" in real


# --- bundles


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return int8_bundle(tmp_path_factory.mktemp("cut"), difference=9)


@pytest.fixture
def bundle(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / good.name))


def failed(check: BundleCheck) -> set[str]:
    return {gate.name for gate in check.gates if not gate.passed}


def change_file(bundle: Path, **values: object) -> None:
    path = bundle / "threshold.json"
    record = json.loads(path.read_text())
    record["files"][0] |= values
    path.write_text(json.dumps(record))


def test_a_bundle_with_a_threshold_says_the_same_everywhere(good: Path) -> None:
    check = verify_bundle(good)
    assert failed(check) == set()
    assert check.complete
    assert "threshold:model_int8.tflite" in {gate.name for gate in check.gates}
    assert "constexpr int32_t kDecisionDifference = 9;" in (good / "c" / "model_settings.h").read_text()
    assert "DecideLabel" in (good / "c" / "README.md").read_text()
    for page in ("README.md", "size_report.md"):
        assert "| 9 | " in (good / page).read_text().split("## Threshold")[1]
    (report,) = json.loads((good / "size_report.json").read_text())["files"]
    assert report["operating"]["test"] == [[300, 63], [20, 143]]


@pytest.mark.parametrize(
    ("values", "gates"),
    [
        ({"difference": 10}, {"threshold:model_int8.tflite", "c_settings:c/model_settings.h"}),
        ({"difference": 9.5}, {"threshold:model_int8.tflite"}),
        ({"probability": 0.5}, {"threshold:model_int8.tflite"}),
        ({"golden": ["good", "good", "good"]}, {"threshold:model_int8.tflite"}),
        ({"argmax": 0.9}, {"threshold:model_int8.tflite"}),
        ({"path": "model.tflite"}, {"threshold:model_int8.tflite", "c_settings:c/model_settings.h"}),
    ],
)
def test_a_threshold_that_was_changed_fails_its_gate(bundle: Path, values: dict[str, object], gates: set[str]) -> None:
    change_file(bundle, **values)
    reseal(bundle)
    check = verify_bundle(bundle)
    assert gates <= failed(check)
    assert next(file for file in check.files if file.path == "threshold.json").state == "failed"


def test_decisions_that_the_outputs_do_not_give_fail(bundle: Path) -> None:
    decided = json.loads((bundle / "threshold.json").read_text())["files"][0]["golden"]
    change_file(
        bundle, golden=decided[::-1] if decided[0] != decided[1] else ["good" if decided[0] != "good" else "x"] * 2
    )
    reseal(bundle)
    assert failed(verify_bundle(bundle)) == {"threshold:model_int8.tflite"}


@pytest.mark.parametrize(
    "change",
    [{"criterion": "accuracy"}, {"positive": "good", "negative": "bad"}],
    ids=["another criterion", "other classes"],
)
def test_a_record_that_the_recipe_or_the_labels_contradict_fails(bundle: Path, change: dict[str, object]) -> None:
    edit_json(bundle / "threshold.json", change)
    reseal(bundle)
    assert failed(verify_bundle(bundle)) == {"threshold:model_int8.tflite"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kDecisionDifference = 9;", "kDecisionDifference = 8;"),
        ("> kDecisionDifference ? 1 : 0", ">= kDecisionDifference ? 1 : 0"),
        ("output[1] - output[0]", "output[0] - output[1]"),
    ],
)
def test_firmware_that_decides_otherwise_fails(bundle: Path, old: str, new: str) -> None:
    path = bundle / "c" / "model_settings.h"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    reseal(bundle)
    assert failed(verify_bundle(bundle)) == {"c_settings:c/model_settings.h"}


def test_a_threshold_that_was_taken_out_is_missed(bundle: Path) -> None:
    """Firmware would go on with a number that nothing vouches for."""
    (bundle / "threshold.json").unlink()
    old = parse_manifest((bundle / "manifest.json").read_bytes(), origin="manifest.json")
    kept: list[FileEntry] = [entry for entry in old.files if entry.path != "threshold.json"]
    manifest = make_manifest(name=old.name, level=old.level, version=old.edgeprune, files=kept)
    (bundle / "manifest.json").write_text(manifest.model_dump_json())
    assert failed(verify_bundle(bundle)) == {"threshold:model_int8.tflite", "c_settings:c/model_settings.h"}


def test_a_bundle_without_a_threshold_has_neither_file_nor_gate(tmp_path: Path) -> None:
    folder = onnx_bundle(tmp_path)
    check = verify_bundle(folder)
    assert failed(check) == set()
    assert not (folder / "threshold.json").exists()
    assert not [gate for gate in check.gates if gate.name.startswith("threshold")]
    assert "## Threshold" not in (folder / "README.md").read_text()
