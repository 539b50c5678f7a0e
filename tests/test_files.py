"""Files appear whole or not at all, and digests name content."""

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.errors import InputError
from edgeprune.files import digest_file, digest_json, read_json, staged_folder, write_atomic, write_json

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "c.txt", "grüße\n")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == "grüße\n".encode()


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a checkpoint is worse than none: a later run would take it for a whole one."""
    path = tmp_path / "model.bin"
    write_atomic(path, b"old")
    fill_the_disk(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_first_write_leaves_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_the_disk(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "model.bin", b"new")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_writing_cleans_up_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is no ``Exception``."""

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "model.bin", b"new")
    assert list(tmp_path.iterdir()) == []


def test_files_are_as_readable_as_the_user_wants_them(tmp_path: Path) -> None:
    """Temporary files are private; what is left in their place must not be."""
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"")
        with staged_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o750


@given(json_values)
def test_json_round_trips(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_changes_neither_bytes_nor_digest(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, int]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    turned = dict(reversed(value.items()))
    write_json(folder / "one.json", value)
    write_json(folder / "two.json", turned)
    assert digest_file(folder / "one.json") == digest_file(folder / "two.json")
    assert digest_json(value) == digest_json(turned)


def test_other_values_have_other_digests() -> None:
    values = [{"a": 1}, {"a": 2}, {"b": 1}, [1], [1, 2], [2, 1], "1", 1, None, {"a": [1]}, {"a": {"b": 1}}]
    assert len({digest_json(value) for value in values}) == len(values)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(tmp_path: Path, value: float) -> None:
    """Python would write ``NaN``, which other readers of a bundle refuse."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"figure": value})
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_json(value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json does not exist"):
        read_json(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"{'a': 1}", b"\xff\xfe", b"\x80\x02.", b"[" * 200_000, b"1" * 5000],
    ids=["empty", "cut", "python", "utf-16", "pickle", "deep", "long number"],
)
def test_what_is_not_json_is_named(tmp_path: Path, content: bytes) -> None:
    """Nesting beyond Python's stack and numbers beyond its limit are damage as well, and no bug of edgeprune."""
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json is not readable JSON"):
        read_json(tmp_path / "a.json")


def test_a_staged_folder_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "bundle"
    with staged_folder(final) as staging:
        (staging / "golden").mkdir()
        (staging / "golden" / "00.rgb").write_bytes(b"pixels")
        assert not final.exists()
        assert staging.parent == final.parent  # the same file system, or the rename would copy
    assert (final / "golden" / "00.rgb").read_bytes() == b"pixels"
    assert list(final.parent.iterdir()) == [final]


def test_a_staged_folder_replaces_the_old_one_completely(tmp_path: Path) -> None:
    """A file of the old level that the new one lacks must not survive."""
    final = tmp_path / "level"
    final.mkdir()
    (final / "stale").write_text("old")
    with staged_folder(final) as staging:
        (staging / "fresh").write_text("new")
    assert [path.name for path in final.iterdir()] == ["fresh"]
    assert list(tmp_path.iterdir()) == [final]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_old_folder_stays_when_the_block_raises(tmp_path: Path, error: type[BaseException]) -> None:
    final = tmp_path / "level"
    final.mkdir()
    (final / "weights").write_text("old")
    with pytest.raises(error), staged_folder(final) as staging:  # noqa: PT012
        (staging / "weights").write_text("half")
        raise error
    assert (final / "weights").read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_a_full_disk_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data reaches the disk before the name does, so that is where a full disk shows."""
    final = tmp_path / "level"
    final.mkdir()
    (final / "weights").write_text("old")
    with pytest.raises(OSError, match="No space left"), staged_folder(final) as staging:  # noqa: PT012
        (staging / "weights").write_text("new")
        fill_the_disk(monkeypatch)
    assert (final / "weights").read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "level"
    final.mkdir()
    (final / "weights").write_text("old")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if ".new-" in path.name:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Permission denied"), staged_folder(final) as staging:
        (staging / "weights").write_text("new")
    assert (final / "weights").read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]
