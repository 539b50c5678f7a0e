"""Where bundles are pulled from: a folder, or a static HTTP server. Neither is trusted.

Links never lead out of the folder, and redirects never leave HTTP. Standard library only, so that the base install can
pull.
"""

import errno
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import quote, unquote, urlsplit

from edgeprune.errors import InputError


class DroppedError(Exception):
    """The other side went away, or was too slow; worth another attempt."""


class Place(Protocol):
    """A root with files below it."""

    def describe(self, path: str) -> str:
        """The path as a person would look it up."""

    def open(self, path: str) -> AbstractContextManager[tuple[IO[bytes], int | None]]:
        """A stream and the size that the place states for it, if any.

        Raises:
            FileNotFoundError: there is no such file.
            InputError: it may not be read.
            DroppedError: the connection failed.
        """


class FolderPlace:
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def describe(self, path: str) -> str:
        """The path on this machine."""
        return str(self.root / path)

    @contextmanager
    def open(self, path: str) -> Iterator[tuple[IO[bytes], int | None]]:
        """See ``Place``; a link is followed only inside the folder."""
        shown = self.describe(path)
        try:
            found = (self.root / path).resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(errno.ENOENT, "no such file", shown) from None
        except (OSError, RuntimeError):
            # A loop of links is a RuntimeError up to Python 3.12.
            raise InputError(f"{shown} cannot be read.", "check that folder's permissions and links") from None
        if not found.is_relative_to(self.root.resolve()):
            raise InputError(f"{shown} is a link that leads out of {self.root}; it is refused.", "copy the file there")
        if not found.is_file():
            # Opening a named pipe would wait for ever.
            raise InputError(f"{shown} is not a plain file; it is refused.", "pull from a folder that publish wrote")
        try:
            stream = found.open("rb")
        except OSError as error:
            raise InputError(f"{shown} cannot be read: {error.strerror}.", "check its permissions") from None
        with stream:
            yield stream, found.stat().st_size


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(  # noqa: PLR0917  the standard library's signature
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            fp.close()
            raise InputError(
                f"{req.full_url} redirects to {newurl!r}; only http and https are followed, and never https to http.",
                "use the address that the files are really at",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> object:
        # The parent answers other schemes with an HTTPError of its own wording before redirect_request is asked.
        target = headers.get("location") or headers.get("uri") or ""
        if urlsplit(target).scheme not in ("", "http", "https"):
            self.redirect_request(req, fp, code, msg, headers, target)
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class ServerPlace:
    """A static HTTP or HTTPS server; a proxy is taken from the environment, as every client does."""

    def __init__(self, root: str, *, timeout_seconds: float) -> None:
        self.root = root.rstrip("/")
        self._timeout_seconds = timeout_seconds
        # Built by hand: the default opener also speaks file, ftp and data.
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _SafeRedirects(),
        ):
            self._opener.add_handler(handler)

    def describe(self, path: str) -> str:
        """The address."""
        return f"{self.root}/{quote(path)}"

    @contextmanager
    def open(self, path: str) -> Iterator[tuple[IO[bytes], int | None]]:
        """See ``Place``; the size is the server's ``Content-Length``."""
        url = self.describe(path)
        request = urllib.request.Request(url, headers={"User-Agent": "edgeprune", "Accept-Encoding": "identity"})
        try:
            response = self._opener.open(request, timeout=self._timeout_seconds)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE):
                raise FileNotFoundError(errno.ENOENT, "no such file", url) from None
            if error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR or error.code == http.HTTPStatus.TOO_MANY_REQUESTS:
                raise DroppedError(f"HTTP status {error.code}") from None
            raise InputError(
                f"{url} answers with HTTP status {error.code}.", "check the address in a browser"
            ) from None
        except (http.client.InvalidURL, ValueError) as error:
            raise InputError(
                f"{url} is not an address: {error}.", "an address such as https://example.org/exports"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise DroppedError(shorten_reason(error)) from None
        if response is None:
            raise InputError(f"{url} cannot be opened.", "an address such as https://example.org/exports")
        with response:
            stated = response.headers.get("Content-Length", "")
            yield response, int(stated) if stated.isascii() and stated.isdigit() else None


def open_place(source: str, *, timeout_seconds: float) -> Place:
    """Tell a folder from a server.

    Args:
        source: a folder, ``file://`` with an absolute path, or an ``http://`` or ``https://`` address.
        timeout_seconds: of each wait for the server.

    Raises:
        InputError: another scheme, an address with a query, or no such folder.
    """
    scheme, separator, _ = source.partition("://")
    if separator:
        parts = urlsplit(source)
        if scheme.lower() in ("http", "https"):
            if not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
                raise InputError(
                    f"The source {source} must be a plain address without password, query or fragment.",
                    "an address such as https://example.org/exports",
                )
            return ServerPlace(source, timeout_seconds=timeout_seconds)
        if scheme.lower() != "file" or parts.netloc not in ("", "localhost"):
            raise InputError(
                f"The source {source} has the scheme {scheme!r}; a folder, http and https are known.",
                "mount it as a folder, or serve it with `python -m http.server`",
            )
        source = unquote(parts.path)
    root = Path(source).expanduser()
    if not root.is_dir():
        raise InputError(f"The source {source} is not a folder that can be read.", "check the path")
    return FolderPlace(root)


def shorten_reason(error: BaseException) -> str:
    """What went wrong on the wire, in a few words."""
    # URLError wraps the error of the socket.
    inner = getattr(error, "reason", None) or error
    return str(getattr(inner, "strerror", None) or inner) or type(inner).__name__
