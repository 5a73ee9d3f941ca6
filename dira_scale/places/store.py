"""Places to read and write: folders of this machine, and prefixes of object stores (``s3://…``) by fsspec.

Both are ``pathlib.Path`` to everyone else (of a store, universal-pathlib's twin of it). A file of a store is read and
written as a whole: that is one request, and it is there or not, never half.
"""

import errno
import io
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from dira_scale.errors import UserError


def locate(where: str | Path, key: str) -> Path:
    """The folder or file that ``where`` names: a path, ``file://…``, or the URL of a store.

    Raises:
        UserError: ``where`` is empty, there is no such kind of store, or its package is missing; the message names
            ``key``, the option that the user typed.
    """
    if where == "":  # a shell's variable that is not set: not the folder in which the command was typed
        raise UserError(f"{key}= is empty: name a folder, or . for this one")
    if not isinstance(where, str) or "://" not in where:
        return Path(where) if isinstance(where, str) else where
    if where.startswith("file://"):
        return Path(where.removeprefix("file://"))
    try:
        from upath import UPath

        # Listings are not cached: other machines write there too.
        store = UPath(where, use_listings_cache=False)
        _ = store.fs  # imports the package that knows the protocol
    except (ImportError, ValueError) as error:
        hint = "pip install 'dira_scale[store]'; for other stores than S3 fsspec's package, too (gcsfs, adlfs …)"
        raise UserError(f"{key}={where}: {error}; {hint}") from error
    return cast(Path, store)


def is_local(path: Path) -> bool:
    """Whether ``path`` is on this machine, where files can be renamed and locked."""
    return isinstance(path, Path)


@contextmanager
def as_os_error(path: Path, *own: type[Exception]) -> Iterator[None]:
    """Turn whatever a store's library raises inside into ``OSError``; errors of the kinds ``own`` pass unchanged."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (OSError, UserError, *own)) or is_local(path):
            raise
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", str(path)) from error


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; from a store all of it is fetched at once.

    Raises OSError with its errno; also for what is not a regular file, and when it was written to in the meantime.
    """
    if not is_local(path):
        yield io.BytesIO(_fetched(path))
        return
    with (
        open(path, "rb", opener=_at_once) as file,
        os.fdopen(os.dup(file.fileno()), "rb") as same,  # the reader may close its own
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


def _at_once(path: str, flags: int) -> int:
    """Without waiting: opening a FIFO would block."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_ranges(path: Path, spans: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes of a file from each ``start`` to its ``end``; from a store only these are fetched, all at once.

    Raises OSError with its errno; also when the file ends before a range does.
    """
    if is_local(path):
        with open_file(path) as file:
            found = [os.pread(file.fileno(), end - start, start) for start, end in spans]
    else:
        starts, ends = [start for start, _ in spans], [end for _, end in spans]
        with with_errno(path):
            found = path.fs.cat_ranges([path.path] * len(spans), starts, ends, on_error="raise")  # type: ignore[attr-defined]
    if [len(part) for part in found] != [end - start for start, end in spans]:
        raise OSError(errno.ESTALE, "it is shorter than it was", str(path))
    return found


def _fetched(path: Path) -> bytes:
    with with_errno(path):
        return path.read_bytes()


@contextmanager
def with_errno(path: Path) -> Iterator[None]:
    """Give the ``OSError`` of a store the errno that the same error of a disk has."""
    try:
        with as_os_error(path):
            yield
    except FileNotFoundError as error:  # stores raise these without a number
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    except PermissionError as error:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from error
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


def upload(file: Path, path: Path) -> None:
    """Copy a file of this machine to ``path`` in a store. Raises OSError."""
    with as_os_error(path):
        path.fs.put_file(str(file), path.path)  # type: ignore[attr-defined]


def remove(folder: Path) -> None:
    """Remove a folder and everything in it, if it exists. Raises OSError."""
    if is_local(folder):
        return shutil.rmtree(folder, ignore_errors=True)
    with as_os_error(folder):
        if folder.exists():
            folder.fs.rm(folder.path, recursive=True)  # type: ignore[attr-defined]


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder. Raises OSError."""
    if is_local(folder):
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    with as_os_error(folder):
        return int(folder.fs.du(folder.path))  # type: ignore[attr-defined]
