"""Pulling from a real HTTP server on this machine, in every mood that servers have."""

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from bundle_factory import metadata, publish, snapshot, write_model

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.publish import PulledBundle, pull_bundle, transfer

Mood = Callable[["_Handler"], bool]


@dataclass
class _Server:
    """A static server, and what it does instead of answering: path to a function that says whether it has answered."""

    address: str
    root: Path
    moods: dict[str, Mood] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *arguments: object, state: _Server, directory: str) -> None:
        self.state = state
        super().__init__(*arguments, directory=directory)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.state.asked.append(self.path)
        mood = self.state.moods.get(self.path)
        if mood is None or not mood(self):
            super().do_GET()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  the standard library's signature
        pass


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    publish(folder / "exports", write_model(folder / "model.onnx", metadata().as_text()))
    return folder / "exports"


@pytest.fixture
def server(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    # A proxy of the machine that runs the tests has no way to its loopback.
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(transfer, "_PAUSE_SECONDS", 0.001)
    root = Path(shutil.copytree(published, tmp_path / "www/exports")).parent
    state = _Server(address="", root=root)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, state=state, directory=str(root))) as http:
        http.handle_error = lambda request, client: None  # type: ignore[method-assign]
        state.address = f"http://127.0.0.1:{http.server_address[1]}/exports"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def _pull(server: _Server, to: Path, said: list[str] | None = None, **changes: str) -> PulledBundle:
    return pull_bundle(
        source=changes.get("source", server.address),
        name=None,
        to=to,
        say=(said if said is not None else []).append,
        timeout_seconds=0.5,
    )


def _nothing_left(to: Path) -> bool:
    return not to.exists() or not list(to.iterdir())


def _drop_after(count: int, *, times: int) -> Mood:
    """Promise the whole file, send some of it, and hang up; behave after that many times."""
    left = [times]

    def mood(handler: _Handler) -> bool:
        if left[0] == 0:
            return False
        left[0] -= 1
        content = Path(handler.translate_path(handler.path)).read_bytes()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:count])
        handler.close_connection = True
        return True

    return mood


def _status(code: int, **headers: str) -> Mood:
    def mood(handler: _Handler) -> bool:
        handler.send_response(code)
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    return mood


MODEL = "/exports/elpv96-s60/model.onnx"


@pytest.mark.parametrize("tail", ["", "/", "/elpv96-s60", "/elpv96-s60/"])
def test_a_bundle_comes_over_http_byte_for_byte(tail: str, server: _Server, tmp_path: Path) -> None:
    pulled = _pull(server, tmp_path / "to", source=server.address + tail)
    assert snapshot(pulled.folder) == snapshot(server.root / "exports/elpv96-s60")
    assert _pull(server, tmp_path / "to").up_to_date


def test_only_what_is_listed_is_asked_for(server: _Server, tmp_path: Path) -> None:
    _pull(server, tmp_path / "to")
    files = snapshot(server.root / "exports/elpv96-s60")
    assert sorted(server.asked) == sorted(["/exports/index.json", *(f"/exports/elpv96-s60/{path}" for path in files)])


@pytest.mark.parametrize("path", ["/exports/index.json", "/exports/elpv96-s60/manifest.json", MODEL])
def test_a_dropped_connection_is_tried_again(path: str, server: _Server, tmp_path: Path) -> None:
    said: list[str] = []
    server.moods[path] = _drop_after(100, times=2)
    pulled = _pull(server, tmp_path / "to", said)
    assert snapshot(pulled.folder) == snapshot(server.root / "exports/elpv96-s60")
    assert [line.rpartition("; ")[2] for line in said if "dropped" in line] == ["attempt 2 of 3", "attempt 3 of 3"]


@pytest.mark.parametrize("path", ["/exports/index.json", "/exports/elpv96-s60/manifest.json", MODEL])
def test_a_connection_that_keeps_dropping_is_an_error_and_leaves_nothing(
    path: str, server: _Server, tmp_path: Path
) -> None:
    server.moods[path] = _drop_after(100, times=99)
    with pytest.raises(EdgepruneError, match=r"could not be read in 3 attempts .*100 of"):
        _pull(server, tmp_path / "to")
    assert server.asked.count(path) == 3
    assert _nothing_left(tmp_path / "to")


def test_a_failed_replacement_leaves_the_bundle_that_was_there(server: _Server, tmp_path: Path) -> None:
    to = tmp_path / "to"
    before = snapshot(_pull(server, to).folder)
    publish(
        server.root / "exports",
        write_model(tmp_path / "new.onnx", metadata().as_text(), weight_scale=2.0),
    )
    server.moods[MODEL] = _drop_after(100, times=99)
    with pytest.raises(EdgepruneError):
        _pull(server, to)
    assert snapshot(to) == {f"elpv96-s60/{path}": content for path, content in before.items()}


def test_a_server_that_answers_nothing_is_given_up(server: _Server, tmp_path: Path) -> None:
    """Each wait has an end: a hanging server must not hang the build that pulls from it."""
    release = threading.Event()

    def hang(handler: _Handler) -> bool:
        release.wait(10)
        handler.close_connection = True
        return True

    server.moods[MODEL] = hang
    try:
        with pytest.raises(EdgepruneError, match="timed out"):
            _pull(server, tmp_path / "to")
    finally:
        release.set()
    assert _nothing_left(tmp_path / "to")


def test_a_passing_overload_is_tried_again_and_a_refusal_is_not(server: _Server, tmp_path: Path) -> None:
    server.moods[MODEL] = _status(503)
    with pytest.raises(EdgepruneError, match="HTTP status 503"):
        _pull(server, tmp_path / "to")
    assert server.asked.count(MODEL) == 3
    server.moods[MODEL] = _status(403)
    with pytest.raises(InputError, match="HTTP status 403"):
        _pull(server, tmp_path / "to")
    assert server.asked.count(MODEL) == 4
    assert _nothing_left(tmp_path / "to")


def test_a_file_that_is_missing_short_long_or_changed_is_refused(server: _Server, tmp_path: Path) -> None:
    path = server.root / "exports/elpv96-s60/model.onnx"
    content = path.read_bytes()
    for spoilt in (content[:-1], content + b"\0", content[:-1] + bytes([content[-1] ^ 1]), None):
        if spoilt is None:
            path.unlink()
        else:
            path.write_bytes(spoilt)
        with pytest.raises(InputError, match=r"model\.onnx (has|is in the manifest but missing)"):
            _pull(server, tmp_path / "to")
        assert _nothing_left(tmp_path / "to")


def test_not_one_byte_more_than_stated_is_read(server: _Server, tmp_path: Path) -> None:
    """A server without Content-Length could send for ever; the right beginning is enough and the rest is not taken."""
    sent: list[int] = []
    content = (server.root / "exports/elpv96-s60/model.onnx").read_bytes()

    def flood(handler: _Handler) -> bool:
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        handler.wfile.write(content)
        try:
            for _ in range(2000):
                handler.wfile.write(bytes(2**16))
                sent.append(2**16)
        except OSError:
            pass
        return True

    server.moods[MODEL] = flood
    pulled = _pull(server, tmp_path / "to")
    assert (pulled.folder / "model.onnx").read_bytes() == content
    assert len(sent) < 2000


@pytest.mark.parametrize("path", ["/exports/index.json", "/exports/elpv96-s60/manifest.json"])
def test_an_endless_catalogue_or_manifest_is_refused(path: str, server: _Server, tmp_path: Path) -> None:
    def flood(handler: _Handler) -> bool:
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        try:
            for _ in range(500):
                handler.wfile.write(b" " * 2**16)
        except OSError:
            pass
        return True

    server.moods[path] = flood
    with pytest.raises(InputError, match="is larger than"):
        _pull(server, tmp_path / "to")


def test_a_redirect_within_http_is_followed(server: _Server, tmp_path: Path) -> None:
    shutil.move(server.root / "exports/elpv96-s60/model.onnx", server.root / "moved.onnx")
    server.moods[MODEL] = _status(302, Location="/moved.onnx")
    assert (_pull(server, tmp_path / "to").folder / "model.onnx").is_file()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["file://{path}", "ftp://127.0.0.1/model.onnx", "data:text/plain,x"])
def test_a_redirect_to_another_scheme_is_refused(code: int, target: str, server: _Server, tmp_path: Path) -> None:
    """Else a server could have this machine read its own files, and the digest would even fit."""
    target = target.format(path=server.root / "exports/elpv96-s60/model.onnx")
    server.moods[MODEL] = _status(code, Location=target)
    with pytest.raises(InputError, match="only http and https are followed"):
        _pull(server, tmp_path / "to")
    assert _nothing_left(tmp_path / "to")


def test_redirects_in_a_circle_end(server: _Server, tmp_path: Path) -> None:
    server.moods[MODEL] = _status(302, Location=MODEL)
    with pytest.raises(InputError, match="HTTP status 302"):
        _pull(server, tmp_path / "to")


@pytest.mark.parametrize("path", ["/exports/index.json", "/exports/elpv96-s60/manifest.json"])
def test_a_login_page_in_place_of_json_is_refused_in_one_sentence(path: str, server: _Server, tmp_path: Path) -> None:
    """What a captive portal sends, with status 200."""

    def page(handler: _Handler) -> bool:
        content = b"<!doctype html><title>Sign in</title>"
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
        return True

    server.moods[path] = page
    with pytest.raises(InputError, match=r"is refused|the catalogue says"):
        _pull(server, tmp_path / "to")


def test_a_server_that_is_not_there_is_an_error_with_the_address(server: _Server, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(EdgepruneError, match=f"{address}/index.json could not be read"):
            _pull(server, tmp_path / "to", source=address)


@pytest.mark.parametrize(
    "source", ["http://", "http://host/?token=1", "http://host/#x", "http://me:secret@host/", "http://host:port/"]
)
def test_an_address_that_is_not_plain_is_refused(source: str, server: _Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="address"):
        _pull(server, tmp_path / "to", source=source)
