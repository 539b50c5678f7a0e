"""Files from a place that is not trusted: only the bytes that were asked for are read, and all of them are checked.

A dropped connection is tried again before it is an error; a wrong byte is not.
"""

import hashlib
import http.client
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.publish.source import DroppedError, Place, shorten_reason

ATTEMPTS = 3
_PAUSE_SECONDS = 0.2
_CHUNK_BYTES = 2**16

Result = TypeVar("Result")


def read_small(place: Place, path: str, *, limit: int, say: Callable[[str], None]) -> bytes:
    """A whole file of unknown size.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is larger than the limit, or may not be read.
        EdgepruneError: the connection dropped again and again.
    """

    def read() -> bytes:
        with place.open(path) as (stream, stated):
            # One byte beyond the limit tells too large from just fitting.
            content = b"".join(_chunks(stream, limit + 1 if stated is None else min(stated, limit + 1)))
        if len(content) > limit:
            raise InputError(f"{place.describe(path)} is larger than {limit} bytes.", "check that this is a bundle")
        if stated is not None and len(content) < stated:
            raise DroppedError(f"after {len(content)} of {stated} bytes")
        return content

    return _try_again(read, what=place.describe(path), say=say)


def copy_file(
    place: Place,
    path: str,
    target: Path,
    *,
    size_bytes: int,
    sha256: str,
    say: Callable[[str], None],
    progress: Callable[[int], None],
) -> None:
    """Copy a file of known size and digest; not one byte more is read.

    Args:
        target: written from its beginning at each attempt; its folder exists.
        progress: called with the bytes that are there.

    Raises:
        InputError: the file is missing, or has another size or digest.
        EdgepruneError: the connection dropped again and again.
        OSError: the target cannot be written.
    """
    shown = place.describe(path)

    def copy() -> str:
        digest, done = hashlib.sha256(), 0
        try:
            with place.open(path) as (stream, stated), target.open("wb") as file:
                if stated is not None and stated != size_bytes:
                    raise InputError(
                        f"{shown} has {stated} bytes, the manifest says {size_bytes}.", "publish the bundle again"
                    )
                for chunk in _chunks(stream, size_bytes):
                    file.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    progress(done)
        except FileNotFoundError:
            raise InputError(f"{shown} is in the manifest but missing.", "publish the bundle again") from None
        if done < size_bytes:
            raise DroppedError(f"after {done} of {size_bytes} bytes")
        return digest.hexdigest()

    found = _try_again(copy, what=shown, say=say)
    if found != sha256:
        raise InputError(
            f"{shown} has SHA-256 {found[:12]}..., the manifest says {sha256[:12]}...; nothing was kept.",
            "try again, or publish the bundle again",
        )


def _chunks(stream: IO[bytes], limit: int) -> Iterator[bytes]:
    left = limit
    while left > 0:
        try:
            chunk = stream.read(min(_CHUNK_BYTES, left))
        except (OSError, http.client.HTTPException) as error:
            raise DroppedError(shorten_reason(error)) from None
        if not chunk:
            return
        left -= len(chunk)
        yield chunk


def _try_again(action: Callable[[], Result], *, what: str, say: Callable[[str], None]) -> Result:
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            say(f"{what}: the connection dropped ({reason}); attempt {attempt + 1} of {ATTEMPTS}")
            time.sleep(_PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            return action()
        except DroppedError as error:
            reason = str(error)
    raise EdgepruneError(
        f"{what} could not be read in {ATTEMPTS} attempts ({reason}); nothing was kept.",
        "check the address and the network, then run the same command again",
    )
