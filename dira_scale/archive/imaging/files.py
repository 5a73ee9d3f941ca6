"""Opening image files: whatever a reader raises on what is in one becomes RejectedError, as ``rejection`` decides."""

import contextlib
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dira_scale.archive.imaging.rejection import RejectedError, rejects
from dira_scale.base.storage import store
from dira_scale.base.storage.store import is_local, with_errno

DAMAGED = "damaged or cut short ({})"
BLOCK = 2**17  # bytes fetched at a time when reading an object's header


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, open for reading (an object is fetched completely).

    Raises:
        RejectedError: the file is empty, or is itself unreadable, or the caller's reading of it fails.
        OSError, MemoryError: it could not be read now; not the file's fault.
    """
    try:
        with contextlib.ExitStack() as closing, warnings.catch_warnings(), rejects(DAMAGED):
            warnings.simplefilter("ignore")  # decoders' warnings quote header values
            with rejects("the file cannot be read ({})"):
                file = closing.enter_context(store.open_file(path))
            if not file.read(1):
                raise RejectedError("the file is empty")
            file.seek(0)
            yield file
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def opened_for_header(path: Path) -> Iterator[BinaryIO]:
    """A file whose DICOM header is read; from a store only what is read is fetched. Raises as ``opened``."""
    few = {} if is_local(path) else {"block_size": BLOCK}
    with contextlib.ExitStack() as closing, rejects("DICOM header is damaged ({})"):
        with rejects("the file cannot be read ({})"), with_errno(path):
            file = closing.enter_context(path.open("rb", **few))  # type: ignore[call-overload]
        yield file if is_local(path) else _Fetched(file, path)  # type: ignore[misc]


class _Fetched:
    """A store's file: what its library raises while bytes are fetched is OSError, and so not the file's fault."""

    def __init__(self, file: BinaryIO, path: Path):
        self._file, self._path = file, path
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        with with_errno(self._path):
            return self._file.read(size)


def size_of(path: Path) -> int:
    """Size in bytes. Raises RejectedError if it is not a regular file, missing, or not readable by us."""
    with rejects("the file cannot be read ({})"), with_errno(path):
        if not is_local(path):
            return int(path.fs.size(path.path))  # type: ignore[attr-defined]
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise RejectedError("not a regular file")
    if not os.access(path, os.R_OK):
        raise RejectedError("the file cannot be read (PermissionError)")
    return status.st_size
