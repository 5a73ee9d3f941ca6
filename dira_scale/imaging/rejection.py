"""Distinguishes an unusable file from a machine that cannot read it at the moment."""

import contextlib
import errno
from collections.abc import Iterator

# These errors are caused by the file or its name and are permanent. Any other system failure (a disk or network that
# drops out, too many open files, no memory) stops the run, which can be resumed later.
OUT_OF_REACH = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
}  # if it was just listed: mount or permissions
OF_THE_FILE = OUT_OF_REACH | {
    errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EINVAL, errno.EOVERFLOW,  # seeking to an offset from a damaged header; not a regular file
    errno.ENXIO,  # a socket
}  # fmt: skip


class RejectedError(Exception):
    """A file that cannot become a sample. The reason leaves the hospital, so it names no path or value of the file."""


class GeometryError(RejectedError):
    """The voxels can be read, but their positions do not form a volume."""


def is_machine_failure(error: BaseException) -> bool:
    """Whether ``error`` is the machine's fault, not the file's."""
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in OF_THE_FILE  # decoders raise OSError without errno
    return isinstance(error, MemoryError)


@contextlib.contextmanager
def rejects(reason: str) -> Iterator[None]:
    """Turn any exception caused by the file into RejectedError(``reason``); ``{}`` in it becomes the error's type."""
    try:
        yield
    except RejectedError:
        raise
    except Exception as error:  # decoders raise many types on bytes they cannot read
        if is_machine_failure(error):
            raise
        raise RejectedError(reason.format(type(error).__name__)) from error
