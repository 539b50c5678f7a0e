"""Pulling from a folder: nothing appears that was not checked, and nothing is lost that was there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_factory import metadata, publish, reseal, snapshot, write_model

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.files import digest_json
from edgeprune.formats import encode_json
from edgeprune.manifest import parse_manifest
from edgeprune.publish import PulledBundle, pull_bundle, rebuild_catalogue
from edgeprune.verify.bundle import verify_bundle


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of exports with one bundle."""
    folder = tmp_path_factory.mktemp("published")
    publish(folder / "exports", write_model(folder / "model.onnx", metadata().as_text()))
    return folder / "exports"


@pytest.fixture
def exports(published: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(published, tmp_path / "exports"))


def _pull(source: Path | str, to: Path, name: str | None = None) -> PulledBundle:
    return pull_bundle(source=str(source), name=name, to=to, say=lambda line: None)


def _refused(source: Path | str, to: Path, match: str, name: str | None = None) -> InputError:
    """Pull, expect an InputError, and see that nothing at all was left behind."""
    before = snapshot(to)
    with pytest.raises(InputError, match=match) as error:
        _pull(source, to, name)
    assert snapshot(to) == before
    assert not to.exists() or not [path for path in to.iterdir() if path.name.startswith(".")]
    return error.value


def test_a_pulled_bundle_is_the_published_one_byte_for_byte(published: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pulled = pull_bundle(
        source=str(published),
        name="elpv96-s60",
        to=tmp_path / "to",
        say=lambda line: None,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert pulled.folder == tmp_path / "to/elpv96-s60"
    assert snapshot(pulled.folder) == snapshot(published / "elpv96-s60")
    assert verify_bundle(pulled.folder).complete
    assert (pulled.up_to_date, pulled.replaced) == (False, False)
    assert seen[-1] == (pulled.size_bytes, pulled.size_bytes)
    assert seen == sorted(seen)


@pytest.mark.parametrize("form", ["{exports}/elpv96-s60", "file://{exports}", "file://{exports}/elpv96-s60"])
def test_one_bundle_and_a_file_address_are_sources_too(form: str, published: Path, tmp_path: Path) -> None:
    assert _pull(form.format(exports=published), tmp_path / "to").folder.is_dir()


def test_the_three_lines_to_use_it_run(published: Path, tmp_path: Path) -> None:
    """They are printed for pasting: a folder with a quote and a blank in its name must survive that."""
    pulled = _pull(published, tmp_path / "it's here")
    program = "\n".join((*pulled.usage, "print(logits.shape)"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 2)\n"


def test_a_second_pull_is_up_to_date_and_writes_nothing(published: Path, tmp_path: Path) -> None:
    first = _pull(published, tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    (first.folder / "notes.txt").write_text("mine")
    second = _pull(published, tmp_path)
    assert second.up_to_date
    assert {path: path.stat().st_mtime_ns for path in stamps if path.is_file()} == {
        path: stamp for path, stamp in stamps.items() if path.is_file()
    }
    assert (first.folder / "notes.txt").read_text() == "mine"


def test_a_damaged_copy_is_replaced_whole(published: Path, tmp_path: Path) -> None:
    folder = _pull(published, tmp_path).folder
    (folder / "model.onnx").write_bytes(b"half")
    (folder / "labels.txt").unlink()
    pulled = _pull(published, tmp_path)
    assert pulled.replaced
    assert snapshot(folder) == snapshot(published / "elpv96-s60")


def test_an_older_bundle_is_replaced_only_by_one_that_is_whole(exports: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    _pull(exports, to)
    publish(exports, write_model(tmp_path / "new.onnx", metadata().as_text(), weight_scale=2.0))
    good = (exports / "elpv96-s60/model.onnx").read_bytes()
    (exports / "elpv96-s60/model.onnx").write_bytes(good[:-1] + b"\0")
    _refused(exports, to, "SHA-256")
    (exports / "elpv96-s60/model.onnx").write_bytes(good)
    assert _pull(exports, to).replaced
    assert (to / "elpv96-s60/model.onnx").read_bytes() == good


def test_a_file_of_somebody_else_is_never_deleted_by_a_replacement(exports: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    folder = _pull(exports, to).folder
    (folder / "notes.txt").write_text("measured on the bench")
    publish(exports, write_model(tmp_path / "new.onnx", metadata().as_text(), weight_scale=2.0))
    _refused(exports, to, r"holds notes\.txt")


@pytest.mark.parametrize("kind", ["folder", "file", "link", "damaged manifest"])
def test_what_is_not_a_bundle_is_not_replaced(kind: str, exports: Path, tmp_path: Path) -> None:
    place = tmp_path / "to/elpv96-s60"
    place.parent.mkdir()
    if kind == "file":
        place.write_text("years")
    elif kind == "link":
        place.symlink_to(tmp_path)
    else:
        place.mkdir()
        (place / ("thesis.tex" if kind == "folder" else "manifest.json")).write_text("years")
    with pytest.raises(InputError, match="not a bundle of edgeprune"):
        _pull(exports, tmp_path / "to")
    assert [path.name for path in place.parent.iterdir()] == ["elpv96-s60"]


def test_one_flipped_byte_in_any_file_of_the_source_is_refused(exports: Path, tmp_path: Path) -> None:
    """And nothing is left behind, whichever file it is."""
    folder = exports / "elpv96-s60"
    for path, content in snapshot(folder).items():
        spoilt = bytearray(content)
        spoilt[len(spoilt) // 2] ^= 1
        (folder / path).write_bytes(spoilt)
        _refused(exports, tmp_path / "to", path.replace(".", r"\."))
        (folder / path).write_bytes(content)
    _pull(exports, tmp_path / "to")


def test_a_missing_short_or_long_file_is_refused(exports: Path, tmp_path: Path) -> None:
    path = exports / "elpv96-s60/golden/05.rgb"
    content = path.read_bytes()
    for spoilt in (content[:-1], content + b"\0", b""):
        path.write_bytes(spoilt)
        _refused(exports, tmp_path / "to", r"05\.rgb has \d+ bytes")
    path.unlink()
    _refused(exports, tmp_path / "to", r"05\.rgb is in the manifest but missing")


@pytest.mark.parametrize("path", ["../stolen.txt", "/etc/stolen.txt", "golden/../../stolen.txt", "C:\\stolen.txt"])
def test_a_manifest_whose_path_leaves_the_folder_is_refused_by_name(path: str, exports: Path, tmp_path: Path) -> None:
    """The digests all fit: this is what somebody would publish on purpose."""
    folder = exports / "elpv96-s60"
    manifest = parse_manifest((folder / "manifest.json").read_bytes(), origin="")
    values = manifest.model_dump(mode="json", exclude={"digest"})
    values["files"][0]["path"] = path
    (folder / "manifest.json").write_bytes(encode_json({**values, "digest": digest_json(values)}))
    (exports / "index.json").unlink()
    error = _refused(folder, tmp_path / "to", "is refused")
    assert repr(path) in error.problem
    assert not (tmp_path / "stolen.txt").exists()


@pytest.mark.parametrize("path", ["..", "../other", "/tmp", "a/../../b"])
def test_a_catalogue_whose_path_leaves_the_folder_is_refused(path: str, exports: Path, tmp_path: Path) -> None:
    text = (exports / "index.json").read_text()
    (exports / "index.json").write_text(text.replace('"path": "elpv96-s60"', f'"path": "{path}"'))
    _refused(exports, tmp_path / "to", "is refused")


def test_a_manifest_that_is_not_the_catalogues_is_refused(exports: Path, tmp_path: Path) -> None:
    (exports / "elpv96-s60/labels.txt").write_text("defective\nfunctional\n")
    reseal(exports / "elpv96-s60")
    _refused(exports, tmp_path / "to", "the catalogue says")
    rebuild_catalogue(exports)
    _pull(exports, tmp_path / "to")


def test_a_link_that_leads_out_of_the_source_is_not_followed(exports: Path, tmp_path: Path) -> None:
    """A shared folder must not hand out files from beside it, even ones whose digest fits."""
    path = exports / "elpv96-s60/labels.txt"
    path.rename(tmp_path / "outside.txt")
    path.symlink_to(tmp_path / "outside.txt")
    _refused(exports, tmp_path / "to", "leads out of")
    path.unlink()
    (tmp_path / "outside.txt").rename(exports / "inside.txt")
    path.symlink_to(exports / "inside.txt")
    pulled = _pull(exports, tmp_path / "to")
    assert not (pulled.folder / "labels.txt").is_symlink()


def test_a_named_pipe_in_the_source_is_refused_not_waited_for(exports: Path, tmp_path: Path) -> None:
    path = exports / "elpv96-s60/labels.txt"
    path.unlink()
    os.mkfifo(path)
    _refused(exports, tmp_path / "to", "not a plain file")


def test_a_loop_of_links_is_refused(exports: Path, tmp_path: Path) -> None:
    path = exports / "elpv96-s60/labels.txt"
    path.unlink()
    path.symlink_to(path)
    _refused(exports, tmp_path / "to", r"labels\.txt")


def test_several_bundles_need_a_name_and_an_unknown_one_names_the_nearest(exports: Path, tmp_path: Path) -> None:
    publish(exports, write_model(tmp_path / "model.onnx", metadata(level="s10").as_text()), level="s10")
    to = tmp_path / "to"
    assert "elpv96-s10, elpv96-s60" in _refused(exports, to, "lists 2 bundles").remedy
    assert _refused(exports, to, "no bundle 'elpv-s10'", "elpv-s10").remedy == "elpv96-s10"
    assert "one of: elpv96-s10, elpv96-s60" in _refused(exports, to, "no bundle", "zzz").remedy
    assert _pull(exports, to, "elpv96-s10").level == "s10"


def test_a_bundle_that_its_name_stands_for_lies_in_a_folder_of_that_name(exports: Path, tmp_path: Path) -> None:
    (exports / "elpv96-s60").rename(exports / "elpv96")
    publish(exports, write_model(tmp_path / "model.onnx", metadata(level="s10").as_text()), level="s10")
    assert [entry.path for entry in rebuild_catalogue(exports).catalogue.bundles] == ["elpv96-s10", "elpv96"]
    assert [_pull(exports, tmp_path / name, name).level for name in ("elpv96", "elpv96-s60")] == ["s60", "s60"]
    (exports / "elpv96").rename(exports / "solar")
    assert "it is elpv96-s60" in rebuild_catalogue(exports).left_out[0]


def test_a_bundle_that_is_there_twice_is_listed_once_by_its_whole_name(exports: Path, tmp_path: Path) -> None:
    """The shipped one and the one that its own recipe makes, which must not keep every later one from its place."""
    shutil.copytree(exports / "elpv96-s60", exports / "elpv96")
    update = rebuild_catalogue(exports)
    assert [entry.path for entry in update.catalogue.bundles] == ["elpv96-s60"]
    assert update.left_out == ("elpv96: elpv96-s60 is the same bundle.",)


def test_a_source_without_bundles_says_so(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    to = tmp_path / "to"
    _refused(empty, to, r"neither index\.json nor manifest\.json")
    rebuild_catalogue(empty)
    _refused(empty, to, "lists no bundle")
    _refused(tmp_path / "nowhere", to, "not a folder")


def test_a_single_bundle_under_another_name_is_refused(exports: Path, tmp_path: Path) -> None:
    _refused(exports / "elpv96-s60", tmp_path / "to", "not elpv96-s10", "elpv96-s10")


@pytest.mark.parametrize("source", ["ftp://host/exports", "s3://bucket/exports", "file://host/exports", "data://x"])
def test_other_schemes_are_refused(source: str, tmp_path: Path) -> None:
    _refused(source, tmp_path / "to", "scheme")


def test_a_full_disk_leaves_nothing_and_says_what_is_needed(published: Path, tmp_path: Path) -> None:
    """A refusal by the kernel (EFBIG), in a process of its own: the limit cannot be lifted again."""
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom edgeprune.publish import pull_bundle\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "pull_bundle(source=sys.argv[1], name=None, to=Path(sys.argv[2]), say=lambda line: None)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(published), str(tmp_path / "to")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "EdgepruneError" in done.stderr
    assert "nothing was changed" in done.stderr
    assert list((tmp_path / "to").iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_input_error(published: Path, tmp_path: Path) -> None:
    (tmp_path / "to").write_text("a file, not a folder")
    with pytest.raises(EdgepruneError, match="cannot be written"):
        _pull(published, tmp_path / "to")
