"""Places to read and write: local folders, and prefixes of object stores (``s3://…``) through fsspec.

Callers see a ``pathlib.Path`` (for a store, universal-pathlib's equivalent). A file in a store is read and written in
one request, so it is there completely or not at all.
"""

import errno
import io
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from dira_scale.base.errors import UserError

if TYPE_CHECKING:
    from aiohttp import ClientSession, TraceRequestRedirectParams
    from yarl import URL


async def client(**options: Any) -> "ClientSession":
    """Make a client as fsspec does, except that a redirect to another host ends the request with PermissionError."""
    from aiohttp import ClientSession, TraceConfig

    watch = TraceConfig()
    watch.on_request_redirect.append(_refuse_elsewhere)
    return ClientSession(trace_configs=[watch], **options)


async def _refuse_elsewhere(_session: object, _context: object, request: "TraceRequestRedirectParams") -> None:
    to = request.response.headers.get("Location", "")
    if not _is_same(request.url, request.url.join(type(request.url)(to))):
        request.response.close()
        reason = f"its server redirects to {to}, which is not on its host: name that address if you trust it"
        raise PermissionError(errno.EACCES, reason, str(request.url))


def _is_same(url: "URL", to: "URL") -> bool:
    """Return whether both are on the same server; https may follow http if both use the default ports."""
    upgraded = (url.scheme, to.scheme) == ("http", "https") and url.is_default_port() and to.is_default_port()
    return to.host == url.host and (upgraded or (to.scheme, to.port) == (url.scheme, url.port))


def locate(where: str | Path, key: str) -> Path:
    """The folder or file that ``where`` names: a path, ``file://…``, or the URL of a store.

    Raises:
        UserError: ``where`` is empty, the kind of store is unknown, or its package is missing; the message names
            ``key``, the option that the user typed.
    """
    if where == "":  # probably an unset shell variable; must not mean the current folder
        raise UserError(f"{key}= is empty: name a folder, or . for the current one")
    if not isinstance(where, str) or "://" not in where:
        return Path(where) if isinstance(where, str) else where
    if where.startswith("file://"):
        return Path(where.removeprefix("file://"))
    try:
        from upath import UPath

        # No cached listings: other machines write there too.
        options = {"get_client": client} if where.startswith(("http://", "https://")) else {}
        store = UPath(where, use_listings_cache=False, **options)
        _ = store.fs  # imports the package that knows the protocol
    except (ImportError, ValueError) as error:
        hint = "pip install 'dira_scale[store]'; stores other than S3 also need fsspec's package (gcsfs, adlfs …)"
        raise UserError(f"{key}={where}: {error}; {hint}") from error
    return cast(Path, store)


def is_local(path: Path) -> bool:
    """Return whether ``path`` is on this machine, where files can be renamed and locked."""
    return isinstance(path, Path)


@contextmanager
def as_os_error(path: Path, *passed: type[Exception]) -> Iterator[None]:
    """Convert whatever a store's library raises inside to ``OSError``; errors of types ``passed`` pass unchanged."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (OSError, UserError, *passed)) or is_local(path):
            raise
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", str(path)) from error


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; from a store the complete file is fetched first.

    Raises OSError with its errno, also if ``path`` is not a regular file, or was written to in the meantime.
    """
    if not is_local(path):
        with with_errno(path):
            content: bytes = path.fs.cat_file(path.path)  # type: ignore[attr-defined]
        yield io.BytesIO(content)
        return
    with (
        open(path, "rb", opener=_open_nonblocking) as file,
        os.fdopen(os.dup(file.fileno()), "rb") as same,  # the caller may close ``file``
    ):
        before = os.fstat(same.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        try:
            yield file
        finally:
            after = os.fstat(same.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise OSError(errno.ESTALE, "it was written to while it was read", str(path))


def _open_nonblocking(path: str, flags: int) -> int:
    """``os.open`` that does not block on a FIFO."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_ranges(path: Path, spans: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes of a file from each ``start`` to its ``end``; from a store only these are fetched, concurrently.

    Raises OSError with its errno, also if the file ends before a range does.
    """
    if is_local(path):
        with open_file(path) as file:
            parts = [os.pread(file.fileno(), end - start, start) for start, end in spans]
    else:
        starts, ends = [start for start, _ in spans], [end for _, end in spans]
        with with_errno(path):
            parts = path.fs.cat_ranges([path.path] * len(spans), starts, ends, on_error="raise")  # type: ignore[attr-defined]
    if [len(part) for part in parts] != [end - start for start, end in spans]:
        raise OSError(errno.ESTALE, "it is shorter than it was", str(path))
    return parts


def in_store(path: Path) -> tuple[Any, str]:
    """Return the file system of a path in a store, and the name that it has there."""
    return path.fs, path.path  # type: ignore[attr-defined]


@contextmanager
def with_errno(path: Path, *passed: type[Exception]) -> Iterator[None]:
    """Give a store's ``OSError`` the errno that the same error has on a disk; ``passed`` as in :func:`as_os_error`."""
    try:
        with as_os_error(path, *passed):
            yield
    except FileNotFoundError as error:  # stores raise these without an errno
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    except PermissionError as error:
        raise PermissionError(errno.EACCES, error.strerror or os.strerror(errno.EACCES), str(path)) from error
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


def remove(folder: Path) -> None:
    """Remove a folder and everything in it, if it exists. Raises OSError."""
    if is_local(folder):
        return shutil.rmtree(folder, ignore_errors=True)
    with as_os_error(folder):
        if folder.exists():
            store, name = in_store(folder)
            store.rm(name, recursive=True)


def size_of(folder: Path) -> int:
    """Total bytes of all files in a folder. Raises OSError."""
    if is_local(folder):
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    with as_os_error(folder):
        store, name = in_store(folder)
        return int(store.du(name))
