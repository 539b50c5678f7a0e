"""Files that are either whole or absent, and digests that name their content.

Everything edgeprune writes goes through here: written beside its final place, fsynced, renamed. A process that is
killed, or a disk that fills up, leaves the old file or none, never half of one.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeprune.errors import InputError


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all; parent folders are made.

    Args:
        path: where the file appears once it is complete.
        content: bytes, or text that is stored as UTF-8.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; results are as readable as any other file of this user.
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _fsync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys and two spaces, so that two equal values give equal bytes."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing, is not UTF-8 or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.", "check the path, or make the file again") from None
    # Not only JSONDecodeError: bytes that are no UTF-8, numbers of thousands of digits, brackets nested without end.
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON: {error}.", "make the file again, or pull it again") from None


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """Fill a folder beside its final place; it appears there whole when the block ends well.

    An existing folder at ``final`` is replaced, and stays as it was when the block raises. What a killed process left
    beside it is cleared away first; a folder that it had set aside and not yet replaced is put back.

    Args:
        final: the folder that appears.

    Yields:
        An empty folder on the same file system to write into.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(final)
    staging = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.new-{os.getpid()}-"))
    replaced = staging.with_name(staging.name.replace(".new-", ".old-"))
    try:
        yield staging
        staging.chmod(0o777 & ~_umask())
        for path in (*staging.rglob("*"), staging):
            _fsync(path)
        if final.exists():
            final.rename(replaced)
        try:
            staging.rename(final)
            _fsync(final.parent)
        except BaseException:
            if final.exists():
                final.rename(staging)
            if replaced.exists():
                replaced.rename(final)
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces): equal values, equal digests.

    >>> digest_json({"b": 1, "a": 2}) == digest_json({"a": 2, "b": 1})
    True
    """
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _umask() -> int:
    # The only way to read the mask is to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _clear_leftovers(final: Path) -> None:
    for kind in ("old", "new"):
        for left in final.parent.glob(f".{final.name}.{kind}-*-*"):
            if _is_running(left.name.rsplit("-", 2)[1]):
                continue
            if kind == "old" and not final.exists():
                left.rename(final)
            else:
                shutil.rmtree(left, ignore_errors=True)


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    return True


def _fsync(path: Path) -> None:
    # A rename is on disk only once its folder is, so folders are synced like files.
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
