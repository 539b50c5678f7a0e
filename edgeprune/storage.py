"""A place that several machines share, by its address: ``file://``, ``s3://``, whatever fsspec reaches.

It mirrors folders of the project. A folder there counts once its list stands beside its files, which is written last
and names every file with its digest; so a folder that is still being written, or lost a file, is not there at all.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgeprune.errors import InputError, MissingExtraError
from edgeprune.files import digest_file, staged_folder, write_atomic

_LIST = ".edgeprune-files.json"
# Protocol to the package that fsspec needs for it, and the extra that brings it.
_EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3")}


@dataclass(frozen=True, slots=True)
class Storage:
    """Folders and small files below one address.

    Attributes:
        url: as it was typed.
    """

    url: str
    _system: Any
    _root: str

    def push_folder(self, folder: Path, name: str) -> bool:
        """Upload a folder; what is there and equal stays. Hidden files are left out.

        Args:
            folder: on this machine.
            name: where it goes, such as ``models/a-s10``.

        Returns:
            Whether anything was sent.
        """
        files = {
            path.relative_to(folder).as_posix(): digest_file(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        }
        there = self._list(name)
        if there == files:
            return False
        if there is not None:
            self._system.rm(self._at(name, _LIST))
        for file, digest in files.items():
            if there is None or there.get(file) != digest:
                self.write(f"{name}/{file}", (folder / file).read_bytes())
        self.write(f"{name}/{_LIST}", json.dumps(files, indent=2, sort_keys=True).encode())
        return True

    def pull_folder(self, name: str, folder: Path) -> bool:
        """Download a folder, which appears whole; what was there under its name is replaced.

        Returns:
            Whether there is such a folder.

        Raises:
            InputError: a file is not what the list says, or would land outside the folder.
        """
        files = self._list(name)
        if files is None:
            return False
        with staged_folder(folder) as staging:
            for file, digest in files.items():
                if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
                    raise InputError(f"{self.url}/{name} names the file {file!r}, outside of it.", "another --storage")
                content = self.read(f"{name}/{file}")
                if content is None or hashlib.sha256(content).hexdigest() != digest:
                    raise InputError(
                        f"{self.url}/{name}/{file} is not what its list says.", f"remove {self.url}/{name} there"
                    )
                write_atomic(staging / file, content)
        return True

    def names(self, parent: str, pattern: str) -> list[str]:
        """Names of whole folders, or of files, directly below a folder, that match a pattern (``a-s*``)."""
        self._system.invalidate_cache()  # others write there too
        found = self._system.glob(self._at(parent, pattern))
        return sorted(f"{parent}/{PurePosixPath(str(path)).name}" for path in found)

    def read(self, name: str) -> bytes | None:
        """A file's bytes, or None when there is none."""
        try:
            content: bytes = self._system.cat_file(self._at(name))
        except (FileNotFoundError, IsADirectoryError):
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file; it appears whole."""
        path = self._at(name)
        if isinstance(self._system.protocol, tuple) and "file" in self._system.protocol:
            write_atomic(Path(path), content)  # object stores do so by themselves, a folder does not
            return
        self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._system.pipe_file(path, content)

    def _list(self, name: str) -> dict[str, str] | None:
        content = self.read(f"{name}/{_LIST}")
        if content is None:
            return None
        try:
            files = json.loads(content)
        except ValueError:
            files = None
        if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
            raise InputError(f"{self.url}/{name}/{_LIST} is damaged.", f"remove {self.url}/{name} there")
        return files

    def _at(self, *parts: str) -> str:
        return "/".join((self._root, *parts))


def open_storage(url: str) -> Storage:
    """A shared place by its address.

    Args:
        url: ``file:///shared/x``, ``s3://bucket/x``, or another that fsspec knows.

    Raises:
        InputError: no protocol, one that fsspec does not know, or it does not answer.
        MissingExtraError: fsspec, or what it needs for this protocol, is not installed.
    """
    protocol, separator, rest = url.partition("://")
    if not separator or not rest.strip("/"):
        raise InputError(f"--storage {url} is no address.", "file:///shared/folder or s3://bucket/folder")
    try:
        import fsspec
    except ModuleNotFoundError:
        raise MissingExtraError("--storage", "cluster", "fsspec") from None
    try:
        system, root = fsspec.core.url_to_fs(url)
    except ImportError:
        module, extra = _EXTRAS.get(protocol, (f"that fsspec wants for {protocol}://", "s3"))
        raise MissingExtraError(f"--storage {protocol}://", extra, module) from None
    except ValueError as error:
        raise InputError(
            f"--storage {url} cannot be used: {error}.", "file:///shared/folder or s3://bucket/folder"
        ) from None
    try:
        system.exists(root)
    except Exception as error:  # each kind of storage has errors of its own, for missing credentials alone
        raise InputError(
            f"--storage {url} does not answer: {type(error).__name__}: {error}.".replace("..", "."),
            "check the address, the network and the credentials",
        ) from None
    return Storage(url.rstrip("/"), system, str(root).rstrip("/"))
