"""Opening image files: any failure caused by the file becomes RejectedError, whatever the library raised."""

import contextlib
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dira_scale.imaging.rejection import RejectedError, rejects
from dira_scale.storage import store
from dira_scale.storage.store import as_os_error, is_local, with_errno

BLOCK = 2**17  # bytes fetched at a time when reading an object's header


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, open for reading (an object is fetched completely).

    Raises:
        RejectedError: the file is empty, or is itself unreadable.
        OSError, MemoryError: it could not be read now; not the file's fault.
    """
    try:
        with contextlib.ExitStack() as closing, warnings.catch_warnings():
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
    """The file; from an object store, only the parts that are read are fetched. Raises as ``opened``."""
    few = {} if is_local(path) else {"block_size": BLOCK}
    with rejects("the file cannot be read ({})"), as_os_error(path), path.open("rb", **few) as file:  # type: ignore[call-overload]
        yield file


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
