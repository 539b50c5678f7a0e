"""`edgeprune verify` and `edgeprune pull`, as an engineer without torch types them."""

import json
import os
import pty
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from bundle_factory import metadata, publish, snapshot, write_model
from command import EDGEPRUNE, ENVIRONMENT, Answer, run_edgeprune, run_python

# Runs a command with packages taken away: python -c WITHOUT torch,numpy verify BUNDLE
WITHOUT = (
    "import sys; sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(',')))\nfrom edgeprune.cli import main; main()"
)
BASE_INSTALL = "torch,numpy,onnxruntime,onnx,PIL,safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exports folder with two bundles."""
    root = tmp_path_factory.mktemp("published")
    publish(root / "exports", write_model(root / "model.onnx", metadata().as_text()))
    other = write_model(root / "other.onnx", metadata(level="s30", target=0.3).as_text())
    publish(root / "exports", other, level="s30", target=0.3)
    return root / "exports"


@pytest.fixture
def bundle(published: Path, tmp_path: Path) -> Path:
    """A copy of one bundle, in a folder with a space in its name."""
    return Path(shutil.copytree(published / "elpv96-s60", tmp_path / "my bundles" / "elpv96-s60"))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  the standard library's signature
        pass


@pytest.fixture
def server(published: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(published))) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


# verify


def test_a_good_bundle_is_checked_file_by_file_and_called_good(bundle: Path) -> None:
    answer = run_edgeprune("verify", str(bundle), "--require", "all", at=bundle.parent)
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    for path in snapshot(bundle):
        assert path == "manifest.json" or f"{path}: checked" in lines
    assert lines[-1] == f"{bundle}: good"


def test_a_bundle_is_found_by_the_folder_one_stands_in(bundle: Path) -> None:
    assert run_edgeprune("verify", ".", at=bundle).code == 0


@pytest.mark.parametrize("path", ["model.onnx", "labels.txt", "golden/03.rgb", "README.md", "manifest.json"])
def test_one_flipped_byte_fails_and_names_its_file(bundle: Path, path: str) -> None:
    content = bytearray((bundle / path).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / path).write_bytes(content)
    answer = run_edgeprune("verify", str(bundle), at=bundle.parent)
    assert "failed: manifest" in answer.refusal(1)
    assert any("FAILED" in line and line.split()[0] == "manifest" for line in answer.out.splitlines())
    assert path == "manifest.json" or f"{path}: failed" in answer.out
    assert "good" not in answer.out.split()
    as_json = run_edgeprune("verify", str(bundle), "--json", at=bundle.parent)
    as_json.refusal(1)
    assert json.loads(as_json.out)["passed"] is False


def test_what_is_no_bundle_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (".", "nowhere", "file"):
        assert f"{path} is not a bundle" in run_edgeprune("verify", path, at=tmp_path).refusal()


def test_the_base_install_checks_bytes_and_says_what_it_could_not_check(bundle: Path) -> None:
    answer = run_python("-c", WITHOUT, BASE_INSTALL, "verify", str(bundle), at=bundle.parent)
    assert (answer.code, answer.err) == (0, "")
    assert "README.md: checked" in answer.out
    assert "model.onnx: not checked: needs extra verify" in answer.out
    strict = run_python("-c", WITHOUT, BASE_INSTALL, "verify", str(bundle), "--require", "all", at=bundle.parent)
    error = strict.refusal(1)
    assert "were not checked" in error
    assert "pip install 'edgeprune[verify]'" in error


# pull


def test_a_bundle_is_pulled_from_a_server_and_the_last_lines_use_it(server: str, tmp_path: Path) -> None:
    answer = run_edgeprune("pull", server, "elpv96-s60", "--to", "new/place", at=tmp_path)
    assert (answer.code, answer.err) == (0, "")
    *_, folder, first, second, third = answer.out.splitlines()
    assert folder == "new/place/elpv96-s60"
    assert run_python("-c", f"{first}\n{second}\n{third}\nprint(logits.shape)", at=tmp_path).out == "(1, 2)\n"
    assert run_edgeprune("verify", folder, "--require", "all", at=tmp_path).code == 0


def test_pull_needs_nothing_but_the_base_install(published: Path, server: str, tmp_path: Path) -> None:
    for source in (server, str(published)):
        to = str(tmp_path / source.partition(":")[0].strip("/").replace("/", "-"))
        pulled = run_python(
            "-c", WITHOUT, BASE_INSTALL, "pull", source, "elpv96-s30", "--to", to, "--json", at=tmp_path
        )
        assert (pulled.code, pulled.err) == (0, "")
        assert snapshot(Path(json.loads(pulled.out)["folder"])) == snapshot(published / "elpv96-s30")


def test_a_name_that_is_not_there_lists_those_that_are(published: Path, tmp_path: Path) -> None:
    for arguments in ([str(published), "elpv96-s90"], [str(published)]):
        answer = run_edgeprune("pull", *arguments, at=tmp_path)
        error = answer.refusal()
        assert "elpv96-s60" in error
        assert "elpv96-s30" in error
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_damaged_on_its_way_never_appears(published: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(published, tmp_path / "source"))
    (source / "elpv96-s60/labels.txt").write_text("defective\nfunctional\n", encoding="utf-8")
    (tmp_path / "to").mkdir()
    answer = run_edgeprune("pull", str(source), "elpv96-s60", "--to", "to", at=tmp_path)
    assert answer.code in (1, 2)
    assert "labels.txt" in answer.refusal(int(str(answer.code)))
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize("source", ["nowhere", "http://127.0.0.1:9", "ftp://example.com", ""])
def test_a_source_that_cannot_serve_is_named(tmp_path: Path, source: str) -> None:
    answer = run_edgeprune("pull", source, "elpv96-s60", at=tmp_path)
    assert answer.code in (1, 2)
    answer.refusal(int(str(answer.code)))
    assert list(tmp_path.iterdir()) == []


def test_progress_is_drawn_on_a_terminal_only_and_never_on_standard_output(published: Path, tmp_path: Path) -> None:
    """`edgeprune pull ... > log` shows a bar to whoever waits and keeps it out of the log."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        done = subprocess.run(
            [*EDGEPRUNE, "pull", str(published), "elpv96-s60"],
            cwd=tmp_path, env={**ENVIRONMENT, "TERM": "xterm"}, stdout=subprocess.PIPE, stderr=theirs,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        os.close(theirs)
        drawn = terminal.read(100_000)
    assert b"%" in drawn
    assert b"24,904" not in drawn
    shutil.rmtree(tmp_path / "elpv96-s60")
    assert run_edgeprune("pull", str(published), "elpv96-s60", at=tmp_path) == Answer(0, done.stdout, "")
