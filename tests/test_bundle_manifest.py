"""The manifest is the gate through which strangers' paths and sizes come in."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.errors import InputError
from edgeprune.files import digest_json
from edgeprune.formats import encode_json, encode_record
from edgeprune.manifest import FileEntry, make_manifest, parse_manifest, path_problem, paths_problem


def _entry(path: str, size: int = 1) -> dict[str, object]:
    return {"path": path, "sha256": "a" * 64, "bytes": size, "role": "model", "media_type": "text/plain"}


def _manifest(*entries: dict[str, object], **changes: object) -> bytes:
    """A manifest whose own digest fits, whatever else is wrong with it."""
    values = {"format": 1, "name": "elpv96", "level": "s60", "edgeprune": "0.1.0", "files": list(entries), **changes}
    return encode_json({"digest": digest_json(values), **values})


@pytest.mark.parametrize(
    "path",
    [
        "../model.onnx",
        "golden/../../model.onnx",
        "/etc/passwd",
        "C:/model.onnx",
        "model.onnx:stream",
        "golden\\00.rgb",
        "golden//00.rgb",
        "golden/",
        "./model.onnx",
        ".hidden",
        "golden/.hidden",
        "model\n.onnx",
        "model\u202eonnx",
        "model.onnx.",
        "model.onnx ",
        "",
        "a" * 256,
        "é" * 128,
    ],
)
def test_a_path_that_could_leave_the_folder_or_deceive_is_refused_by_name(path: str) -> None:
    """Each of these lands outside, somewhere else, or looks like another file on some system."""
    assert path_problem(path) is not None
    with pytest.raises(InputError) as error:
        parse_manifest(_manifest(_entry("fine.txt"), _entry(path)), origin="manifest.json")
    assert repr(path)[:40] in error.value.problem
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    "paths",
    [
        ("labels.txt", "labels.txt"),
        ("labels.txt", "LABELS.TXT"),
        ("caf\u00e9", "cafe\u0301"),
        ("golden", "golden/00.rgb"),
        ("golden/00.rgb", "Golden"),
        ("Manifest.json",),
        ("manifest.json/x",),
    ],
)
def test_paths_that_collide_on_some_file_system_are_refused(paths: tuple[str, ...]) -> None:
    """macOS and Windows fold case and composition: the second file would overwrite the first."""
    assert paths_problem(paths) is not None
    with pytest.raises(InputError, match="is refused"):
        parse_manifest(_manifest(*map(_entry, paths)), origin="manifest.json")


@given(st.text(max_size=40))
def test_every_accepted_path_stays_below_the_folder(path: str) -> None:
    """The rule is a list of bans; this asks the file system's own arithmetic whether the list is long enough."""
    if path_problem(path) is None:
        folder = Path("/a/b")
        joined = folder / path
        assert joined != folder
        assert joined.is_relative_to(folder)
        assert ".." not in joined.parts
        assert joined.relative_to(folder).as_posix() == path


def test_the_files_of_a_bundle_are_accepted() -> None:
    paths = ["model.onnx", "golden/00.rgb", "golden/golden.json", "README.md", "model-int8.tflite"]
    manifest = parse_manifest(_manifest(*map(_entry, paths)), origin="manifest.json")
    assert [entry.path for entry in manifest.files] == paths
    assert manifest.bundle == "elpv96-s60"
    assert manifest.size_bytes == len(paths)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"format": 2}, "format"),
        ({"name": "../elpv96"}, "name"),
        ({"level": "s60/.."}, "level"),
        ({"level": "s60\n"}, "level"),
        ({"files": []}, "files"),
        ({"files": [_entry("a", -1)]}, "bytes"),
        ({"files": [_entry("a", 2**40)]}, "bytes"),
        ({"files": [{**_entry("a"), "bytes": 1.0}]}, "bytes"),
        ({"files": [{**_entry("a"), "bytes": True}]}, "bytes"),
        ({"files": [{**_entry("a"), "sha256": "A" * 64}]}, "sha256"),
        ({"files": [_entry(f"f{index}", 2**31) for index in range(3)]}, "add up"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        parse_manifest(_manifest(_entry("a"), **changes), origin="manifest.json")


def test_a_value_changed_on_its_way_is_found_without_the_catalogue() -> None:
    """A bundle on a memory stick has no index.json beside it."""
    values = json.loads(_manifest(_entry("a")))
    parse_manifest(encode_json(values), origin="manifest.json")
    with pytest.raises(InputError, match="digest"):
        parse_manifest(encode_json({**values, "edgeprune": "0.1.1"}), origin="manifest.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_a_manifest_is_refused_in_one_sentence(content: bytes) -> None:
    with pytest.raises(InputError) as error:
        parse_manifest(content, origin="here/manifest.json")
    assert error.value.problem.startswith("here/manifest.json is refused")
    assert len(error.value.problem) < 300


def test_a_manifest_is_the_same_bytes_whatever_order_the_files_came_in() -> None:
    entries = [FileEntry.model_validate(_entry(path)) for path in ("b", "a/c", "a/b")]
    one, other = (
        make_manifest(name="n", level="s60", version="1", files=files) for files in (entries, list(reversed(entries)))
    )
    assert encode_record(one) == encode_record(other)
    assert parse_manifest(encode_record(one), origin="") == one
