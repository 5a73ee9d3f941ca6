"""Tells a file that is unusable from a machine that could not read it just now."""

import contextlib
import errno
from collections.abc import Iterator

# These errors say something about the file or its name, and will be the same tomorrow. Any other failure of the system
# (a disk or network that drops out, too many open files, no memory) stops the run, which can be resumed later.
OUT_OF_REACH = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR}  # of a file just found: the mount or the rights
OF_THE_FILE = OUT_OF_REACH | {
    errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EINVAL, errno.EOVERFLOW,  # seeking to where a damaged header points; what is no regular file
    errno.ENXIO,  # a socket
}  # fmt: skip


class RejectedError(Exception):
    """A file that cannot become a sample. The reason names no path and no value of the file: it leaves the hospital."""


class GeometryError(RejectedError):
    """The voxels can be read, but where they lie makes no volume."""


def is_machine_failure(error: BaseException) -> bool:
    """Whether ``error`` says nothing about the file that was read."""
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in OF_THE_FILE  # decoders raise OSError without a number
    return isinstance(error, MemoryError)


@contextlib.contextmanager
def rejects(reason: str) -> Iterator[None]:
    """Whatever is raised inside because of the file becomes RejectedError(``reason``); ``{}`` in it is the error's
    type."""
    try:
        yield
    except RejectedError:
        raise
    except Exception as error:  # decoders raise many kinds on bytes that they cannot read
        if is_machine_failure(error):
            raise
        raise RejectedError(reason.format(type(error).__name__)) from error
