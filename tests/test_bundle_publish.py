"""Publishing: everything of a bundle is there, or nothing is."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle_factory import (
    CONFIG,
    ENVIRONMENT,
    MEAN,
    SIZE,
    STD,
    facts_for,
    golden_for,
    metadata,
    publish,
    snapshot,
    write_model,
)

from edgeprune.errors import EdgepruneError, GateFailedError, InputError
from edgeprune.preprocess import normalise_pixels
from edgeprune.publish import publish_bundle, rebuild_catalogue
from edgeprune.results import Gate, Verdict
from edgeprune.verify.bundle import verify_bundle

PASSED = Gate(name="fine", figure=1, limit="1", passed=True)
FAILED = Gate(name="drop", figure=0.05, limit="<= 0.03", passed=False)
GOLDEN = [f"golden/{index:02}.rgb" for index in range(8)]
VECTORS = [f"golden/model_onnx/{index:02}.{kind}" for index in range(4) for kind in ("input", "output")]
FILES = sorted(
    [
        "README.md",
        "config.yaml",
        *GOLDEN,
        *VECTORS,
        "golden/golden.json",
        "labels.txt",
        "manifest.json",
        "model.onnx",
        "preprocess.json",
        "size_report.json",
        "size_report.md",
        "verify.json",
    ]
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", metadata().as_text())


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle's model after another training."""
    return write_model(tmp_path_factory.mktemp("other") / "model.onnx", metadata().as_text(), weight_scale=2.0)


def test_a_bundle_has_every_file_and_its_manifest_lists_every_other_one(model: Path, tmp_path: Path) -> None:
    bundle = publish(tmp_path / "exports", model)
    found = snapshot(bundle.folder)
    assert sorted(found) == FILES
    listed = json.loads(found["manifest.json"])
    assert [entry["path"] for entry in listed["files"]] == [path for path in FILES if path != "manifest.json"]
    for entry in listed["files"]:
        content = found[entry["path"]]
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert entry["role"]
        assert "/" in entry["media_type"]
    assert found["labels.txt"] == b"functional\ndefective\n"
    assert found["config.yaml"] == CONFIG.encode()
    assert found["model.onnx"] == model.read_bytes()
    assert json.loads(found["verify.json"])["passed"] is True
    assert json.loads(found["verify.json"])["gates"][0]["name"] == "onnx_checker"
    assert sorted(path.name for path in (tmp_path / "exports").iterdir()) == ["elpv96-s60", "index.json"]


def test_golden_files_hold_the_pixels_and_logits_they_were_given(model: Path, tmp_path: Path) -> None:
    golden = golden_for(model)
    folder = publish(tmp_path, model).folder
    record = json.loads((folder / "golden/golden.json").read_text())
    for index, path in enumerate(GOLDEN):
        pixels = np.fromfile(folder / path, np.uint8).reshape(record["shape"])
        np.testing.assert_array_equal(pixels, golden.images[index])
    np.testing.assert_array_equal(np.float32(record["files"][0]["outputs"]), golden.outputs["model.onnx"])
    for index in range(4):
        fed = np.fromfile(folder / f"golden/model_onnx/{index:02}.input", "<f4").reshape(3, SIZE, SIZE)
        np.testing.assert_array_equal(fed, normalise_pixels(golden.images[index : index + 1], MEAN, STD)[0])
        given = np.fromfile(folder / f"golden/model_onnx/{index:02}.output", "<f4")
        np.testing.assert_array_equal(given, golden.outputs["model.onnx"][index])
    assert record["images"][1] == {"path": "golden/01.rgb", "label": "defective", "name": "cell0001.png"}


def test_publishing_twice_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    """A time stamp anywhere would make every bundle differ from its own copy."""
    publish(tmp_path / "one", model)
    publish(tmp_path / "two", model)
    publish(tmp_path / "two", model)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_the_catalogue_lists_what_is_there_sorted_and_with_digests(model: Path, tmp_path: Path) -> None:
    exports = tmp_path / "exports"
    publish(exports, model)
    publish(exports, model, level="s10", target=0.1, achieved=0.1053)
    bundle = publish(exports, model, name="aaa")
    catalogue = json.loads((exports / "index.json").read_text())
    assert [entry["path"] for entry in catalogue["bundles"]] == ["aaa-s60", "elpv96-s10", "elpv96-s60"]
    for entry in catalogue["bundles"]:
        content = (exports / entry["path"] / "manifest.json").read_bytes()
        assert entry["manifest_sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["accuracy"] == {"correct": 437, "n": 526}
    assert catalogue["bundles"][0]["manifest_sha256"] == bundle.manifest_sha256
    assert (catalogue["bundles"][1]["target"], catalogue["bundles"][1]["achieved"]) == (0.1, 0.1053)


def test_a_bundle_that_was_removed_or_broken_leaves_the_catalogue(model: Path, tmp_path: Path) -> None:
    for level in ("s10", "s20", "s30"):
        publish(tmp_path, model, level=level)
    (tmp_path / "elpv96-s10/manifest.json").write_text("{")
    (tmp_path / "elpv96-s20").rename(tmp_path / "renamed")
    update = rebuild_catalogue(tmp_path)
    assert [entry.path for entry in update.catalogue.bundles] == ["elpv96-s30"]
    assert [line.partition(":")[0] for line in update.left_out] == ["elpv96-s10", "renamed"]


@pytest.mark.parametrize(
    ("gates", "named"),
    [
        ((PASSED, FAILED), "drop is 0.05"),
        ((), "no gate"),
    ],
)
def test_nothing_is_published_unless_gates_ran_and_all_passed(
    gates: tuple[Gate, ...], named: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(GateFailedError, match=named):
        publish(tmp_path / "exports", model, verdict=Verdict(gates=gates))
    assert not (tmp_path / "exports").exists()


class _FullDisk:
    """Makes the nth fsync from now on fail, as a full disk does; counts all of them, and does none, for speed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int | None) -> None:
        self.calls = 0
        self._fail_at = fail_at
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, handle: int) -> None:
        self.calls += 1
        if self.calls == self._fail_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_up_at_any_moment_leaves_the_old_bundle_or_the_new_one_whole(
    model: Path, other_model: Path, tmp_path: Path
) -> None:
    """Half a bundle that looks like a bundle is what somebody flashes."""
    publish(tmp_path / "new", other_model)
    new = snapshot(tmp_path / "new/elpv96-s60")
    with pytest.MonkeyPatch.context() as patch:
        disk = _FullDisk(patch, None)
        publish(tmp_path / "count", model)
    assert disk.calls > len(FILES)
    outcomes = []
    for fail_at in range(1, disk.calls + 1):
        exports = tmp_path / f"at{fail_at}"
        shutil.copytree(tmp_path / "count", exports)
        before = snapshot(exports)
        with pytest.MonkeyPatch.context() as patch:
            _FullDisk(patch, fail_at)
            with pytest.raises(EdgepruneError, match="No space left"):
                publish(exports, other_model)
        bundle = snapshot(exports / "elpv96-s60")
        assert sorted(path.name for path in exports.iterdir()) == ["elpv96-s60", "index.json"]
        if snapshot(exports) == before:
            outcomes.append("old")
        else:
            assert bundle == new
            outcomes.append("new")
    # Every file of the bundle is written before the folder is moved: only the very last steps come after that.
    assert outcomes[: len(FILES)] == ["old"] * len(FILES)


def test_a_full_disk_is_reported_with_the_bytes_that_are_needed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(len(content) for content in snapshot(publish(tmp_path / "whole", model).folder).values())
    _FullDisk(monkeypatch, 3)
    with pytest.raises(EdgepruneError, match=f"needs {needed} bytes .* nothing was changed") as error:
        publish(tmp_path / "exports", model)
    assert error.value.exit_code == 1
    assert list((tmp_path / "exports").iterdir()) == []


def test_a_file_size_limit_of_the_system_is_reported_too(model: Path, tmp_path: Path) -> None:
    """A real refusal by the kernel (EFBIG), in a process of its own: the limit cannot be lifted again."""
    program = (
        "import resource, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from bundle_factory import publish\n"
        "from edgeprune.errors import EdgepruneError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    publish(Path(sys.argv[3]), Path(sys.argv[2]))\n"
        "except EdgepruneError as error:\n    print(type(error).__name__, error.problem)\n"
    )
    exports = tmp_path / "exports"
    done = subprocess.run(
        [sys.executable, "-c", program, str(Path(__file__).parent), str(model), str(exports)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("EdgepruneError ")
    assert "nothing was changed" in done.stdout
    assert list(exports.iterdir()) == []


def test_when_only_the_catalogue_fails_the_error_says_that_the_bundle_is_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        count = _FullDisk(patch, None)
        publish(tmp_path / "count", model)
    # The last two are the catalogue's content and its folder.
    _FullDisk(monkeypatch, count.calls - 1)
    with pytest.raises(EdgepruneError, match=r"is published, but .*index\.json cannot be written"):
        publish(tmp_path / "exports", model)
    assert verify_bundle(tmp_path / "exports/elpv96-s60").passed


def test_a_file_of_somebody_else_in_the_bundles_folder_is_not_deleted(model: Path, tmp_path: Path) -> None:
    folder = publish(tmp_path, model).folder
    (folder / "notes.txt").write_text("measured on the bench")
    with pytest.raises(InputError, match=r"notes\.txt"):
        publish(tmp_path, model)
    assert (folder / "notes.txt").read_text() == "measured on the bench"
    (folder / "notes.txt").unlink()
    (folder / ".DS_Store").write_bytes(b"litter")
    publish(tmp_path, model)


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_not_a_bundle_is_not_replaced(kind: str, model: Path, tmp_path: Path) -> None:
    place = tmp_path / "exports/elpv96-s60"
    place.parent.mkdir()
    if kind == "folder":
        place.mkdir()
        (place / "thesis.tex").write_text("years")
    elif kind == "file":
        place.write_text("years")
    else:
        place.symlink_to(publish(tmp_path / "elsewhere", model).folder)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="not a bundle of edgeprune"):
        publish(tmp_path / "exports", model)
    assert snapshot(tmp_path) == before


def test_a_model_file_that_is_not_the_verified_one_is_refused(model: Path, tmp_path: Path) -> None:
    """Exported again after the gates ran: the verdict is about another file."""
    changed = tmp_path / "model.onnx"
    changed.write_bytes(model.read_bytes() + b"\0")
    facts = facts_for(model)
    with pytest.raises(InputError, match="the verified ones"):
        publish_bundle(
            exports=tmp_path / "exports",
            facts=facts,
            model_files={"model.onnx": changed},
            golden=golden_for(model),
            config_yaml=CONFIG,
            environment=ENVIRONMENT,
        )
    assert not (tmp_path / "exports").exists()


@pytest.mark.parametrize("label", ["two\nlines", "line\u2028separator", "", " blank", "return\r"])
def test_a_class_name_that_is_not_one_line_is_refused(label: str, model: Path, tmp_path: Path) -> None:
    """labels.txt would have one class more than the model."""
    with pytest.raises(InputError, match="class name"):
        publish(tmp_path / "exports", model, classes=("fine", label))


def test_golden_vectors_of_another_shape_are_a_bug_not_a_bundle(model: Path, tmp_path: Path) -> None:
    golden = golden_for(model)
    for wrong in (
        dataclasses.replace(golden, images=golden.images[:, :8]),
        dataclasses.replace(golden, images=golden.images.astype(np.float32)),
        dataclasses.replace(golden, outputs={"model.onnx": golden.outputs["model.onnx"][:3]}),
        dataclasses.replace(golden, outputs={"model.onnx": golden.outputs["model.onnx"].astype(np.float64)}),
    ):
        with pytest.raises(ValueError, match="golden"):
            publish_bundle(
                exports=tmp_path / "exports",
                facts=facts_for(model),
                model_files={"model.onnx": model},
                golden=wrong,
                config_yaml=CONFIG,
                environment=ENVIRONMENT,
            )
    assert not (tmp_path / "exports").exists()
