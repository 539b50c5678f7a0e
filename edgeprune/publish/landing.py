"""Where a bundle lands: what may be replaced there, and what is said when there is no room.

Publishing and pulling both end in a folder of somebody's disk, and neither may delete what edgeprune did not write.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest, parse_manifest, unlisted_files

# EFBIG: the file system, or a limit on this process, allows no file of this size.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle on this disk; the files themselves are not read.

    Raises:
        InputError: there is none, or it is refused.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise InputError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes.", "pull or publish the bundle again")
        return parse_manifest(path.read_bytes(), origin=str(path))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{path} cannot be read: {reason}.", "give the folder of a bundle") from None


def replaceable_bundle(folder: Path) -> Manifest | None:
    """The manifest of the bundle that a new one would replace; None where there is nothing yet.

    Raises:
        InputError: what is there is no bundle, or holds files of somebody else, which would be lost.
    """
    if not os.path.lexists(folder):
        return None
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder} is there already and is not a bundle of edgeprune.", "move it away")
    try:
        manifest = read_manifest(folder)
    except InputError:
        raise InputError(f"{folder} is there already and is not a bundle of edgeprune.", "move it away") from None
    strangers = unlisted_files(folder, manifest)
    if strangers:
        more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        raise InputError(
            f"{folder} holds {strangers[0]}{more}, which the bundle there does not list and replacing it would delete.",
            f"move {strangers[0]} out of that folder",
        )
    return manifest


@contextmanager
def room_for(size_bytes: int, folder: Path) -> Iterator[None]:
    """Turn a full or forbidden disk into a sentence; to be put around a staged folder, which undoes itself.

    Args:
        size_bytes: what is about to be written.
        folder: where, for the sentence.

    Raises:
        EdgepruneError: there is no room; nothing has changed.
        InputError: this place cannot be written to; nothing has changed.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _NO_ROOM:
            raise EdgepruneError(
                f"{folder} needs {size_bytes} bytes and the disk does not take them ({reason}); nothing was changed.",
                f"free at least {size_bytes} bytes there and run the same command again",
            ) from None
        raise InputError(
            f"{folder} cannot be written: {reason}; nothing was changed.", "choose a folder that you may write to"
        ) from None
