"""A storage is only as good as what comes back from it: whole folders, or none."""

import json
import sys
import uuid
from pathlib import Path

import pytest

from edgeprune.errors import InputError, MissingExtraError
from edgeprune.storage import Storage, open_storage

LIST = ".edgeprune-files.json"


@pytest.fixture(params=["file", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty one; what is in memory outlives a test."""
    return open_storage(f"file://{tmp_path}/shared" if request.param == "file" else f"memory://{uuid.uuid4()}")


@pytest.fixture
def level(tmp_path: Path) -> Path:
    folder = tmp_path / "here" / "a-s10"
    (folder / "candidates").mkdir(parents=True)
    (folder / "record.json").write_text("{}", encoding="utf-8")
    (folder / "candidates" / "model.onnx").write_bytes(bytes(range(256)))
    (folder / ".half-written").write_text("no", encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_comes_back_as_it_was_sent(storage: Storage, level: Path, tmp_path: Path) -> None:
    assert storage.push_folder(level, "models/a-s10")
    assert storage.pull_folder("models/a-s10", tmp_path / "there")
    assert contents(tmp_path / "there") == {"record.json": b"{}", "candidates/model.onnx": bytes(range(256))}
    assert not storage.push_folder(level, "models/a-s10")


def test_a_folder_that_changed_is_sent_again_and_replaces_what_was_pulled(
    storage: Storage, level: Path, tmp_path: Path
) -> None:
    storage.push_folder(level, "models/a-s10")
    storage.pull_folder("models/a-s10", tmp_path / "there")
    (level / "record.json").write_text("[]", encoding="utf-8")
    (level / "candidates" / "model.onnx").unlink()
    assert storage.push_folder(level, "models/a-s10")
    assert storage.pull_folder("models/a-s10", tmp_path / "there")
    assert contents(tmp_path / "there") == {"record.json": b"[]"}


def test_a_folder_that_is_still_being_sent_is_not_there(storage: Storage, tmp_path: Path) -> None:
    """Another machine would take half a level for a level."""
    storage.write("models/a-s10/record.json", b"{}")
    assert not storage.pull_folder("models/a-s10", tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_file_that_is_not_what_the_list_says_is_refused_and_nothing_appears(
    storage: Storage, level: Path, tmp_path: Path
) -> None:
    storage.push_folder(level, "models/a-s10")
    storage.write("models/a-s10/record.json", b"other")
    with pytest.raises(InputError, match=r"a-s10/record\.json is not what its list says"):
        storage.pull_folder("models/a-s10", tmp_path / "there")
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/../../escaped"])
def test_a_list_cannot_write_outside_the_folder(storage: Storage, name: str, tmp_path: Path) -> None:
    """Whoever can write to the storage could otherwise write anywhere on every machine that reads it."""
    storage.write(f"models/a/{LIST}", json.dumps({name: "0" * 64}).encode())
    with pytest.raises(InputError, match="outside of it"):
        storage.pull_folder("models/a", tmp_path / "there")


@pytest.mark.parametrize("content", [b"no json", b"[]", b'{"a": 1}'])
def test_a_damaged_list_is_named(storage: Storage, content: bytes, tmp_path: Path) -> None:
    storage.write(f"models/a/{LIST}", content)
    with pytest.raises(InputError, match="is damaged"):
        storage.pull_folder("models/a", tmp_path / "there")


def test_names_are_those_of_one_folder(storage: Storage) -> None:
    for name in ("models/a-s10/x", "models/a-s20/x", "models/b-s10/x", "runs/a-s10/x"):
        storage.write(name, b"")
    assert storage.names("models", "a-s[0-9]*") == ["models/a-s10", "models/a-s20"]
    assert storage.names("nowhere", "*") == []
    assert storage.read("models/none") is None


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("shared", "is no address"),
        ("file://", "is no address"),
        ("s4://bucket/x", "cannot be used: Protocol not known"),
    ],
)
def test_what_is_no_address_is_refused(url: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        open_storage(url)
    assert caught.value.remedy == "file:///shared/folder or s3://bucket/folder"


def test_s3_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec itself says `Install s3fs`, and not which extra of edgeprune brings the version that fits."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match="needs the package s3fs") as caught:
        open_storage("s3://bucket/x")
    assert caught.value.remedy == "pip install 'edgeprune[s3]'"


def test_s3_that_does_not_answer_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore's errors are no OSError: without credentials there would be a traceback."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="does not answer: "):
        open_storage("s3://bucket/x")
