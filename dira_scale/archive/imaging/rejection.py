"""Distinguishes an unusable file from a machine that cannot read it at the moment."""

import contextlib
import errno
from collections.abc import Iterator

from dira_scale.base.errors import UserError

# These errors are caused by the file or its name and are permanent. Any other system failure (a disk or network that
# drops out, too many open files, no memory) stops the run, which can be resumed later.
OUT_OF_REACH = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR}  # if it was just listed: mount or permissions
OF_THE_FILE = OUT_OF_REACH | {
    errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EINVAL, errno.EOVERFLOW,  # seeking to an offset from a damaged header; not a regular file
    errno.ENXIO,  # a socket
}  # fmt: skip


class RejectedError(Exception):
    """A file that cannot become a sample. The reason leaves the hospital, so it names no path or value of the file.

    Args:
        decided_by: a word for the setting that decides it, of ``archive.reading.ACCEPTED``; empty: none does.

    Attributes:
        stage: of a conversion that it is counted under.
    """

    stage = "decode"

    def __init__(self, *args: str, decided_by: str = "") -> None:
        super().__init__(*args)
        self.decided_by = decided_by


class GeometryError(RejectedError):
    """The voxels can be read, but their positions do not form a volume."""

    stage = "geometry"


def ends_all(error: Exception) -> bool:
    """Return whether ``error`` would meet the next file, too: the disk or memory fails, or the user must change
    something. Any other error belongs to the file that was read, whatever its decoder raises."""
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in OF_THE_FILE  # decoders raise OSError without errno
    return isinstance(error, MemoryError | UserError)


@contextlib.contextmanager
def rejects(reason: str) -> Iterator[None]:
    """Turn any exception but those that ``ends_all`` names into RejectedError(``reason``); ``{}`` in it becomes the
    error's type. KeyboardInterrupt and SystemExit go through: they are no Exception."""
    try:
        yield
    except RejectedError:
        raise
    except Exception as error:
        if ends_all(error):
            raise
        raise RejectedError(reason.format(type(error).__name__)) from error
