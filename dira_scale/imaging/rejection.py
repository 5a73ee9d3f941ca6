"""A file that is unusable, told from a machine that could not read it just now."""

import contextlib
import errno
from collections.abc import Iterator

# What these say is of the file or its name, and will be the same tomorrow. Any other failure of the system (a disk or
# network that drops out, too many open files, no memory) is not the file's: it stops the run, which can go on later.
OUT_OF_REACH = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR}  # of a file just found: the mount or the rights
OF_THE_FILE = OUT_OF_REACH | {
    errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EINVAL, errno.EOVERFLOW,  # seeking to where a damaged header points; what is no regular file
    errno.ENXIO,  # a socket
}  # fmt: skip


class BadImage(Exception):  # noqa: N818 (it is a verdict on a file, not a failure of ours)
    """A file that cannot become a sample. The reason names no path and no value of the file: it leaves the hospital."""


def of_the_machine(error: BaseException) -> bool:
    """Whether ``error`` says nothing about the file that was read."""
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in OF_THE_FILE  # decoders raise OSError without a number
    return isinstance(error, MemoryError)


@contextlib.contextmanager
def judged(reason: str) -> Iterator[None]:
    """Whatever is raised inside because of the file becomes BadImage(``reason``), where ``{}`` is the error's type."""
    try:
        yield
    except BadImage:
        raise
    except Exception as error:  # decoders raise many kinds on bytes that they cannot read
        if of_the_machine(error):
            raise
        raise BadImage(reason.format(type(error).__name__)) from error
