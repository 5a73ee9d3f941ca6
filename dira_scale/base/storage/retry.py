"""Reading from stores and servers that fail now and then: how often and how long to try again."""

import errno
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import xxhash

T = TypeVar("T")
# What no second request mends. 408, 425 and 429 of HTTP do not mean that the request was wrong.
PERMANENT = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EFBIG}
WAIT_AND_ASK_AGAIN = {408, 425, 429}


@dataclass
class Patience:
    """Attempts, and seconds between and within them. Our choice: a server may restart, a run must not hang."""

    attempts: int = 6  # in a row that bring next to nothing; their pauses add up to half a minute or less
    pause: float = 1.0  # before the second attempt; doubles with each
    longest_pause: float = 30.0
    silence: float = 60.0  # without `least` bytes more, a request or an attempt was in vain
    least: int = 2**16
    neighbour: float = 600.0  # without a byte more from another process that fetches the same


PATIENCE = Patience()  # read at each wait, so that tests can shorten it


class StoppedError(Exception):
    """The reader was closed while it waited; no error of the store's."""


def retry(
    action: Callable[[], T], name: str, stop: threading.Event | None = None, progress: Callable[[], int] = lambda: 0
) -> T:
    """Return the result of ``action``, retried after pauses when it raises OSError.

    Args:
        name: of what is read. With the host's name it decides the pauses' lengths, so that many machines do not ask
            again all at once.
        stop: ends a pause with StoppedError.
        progress: bytes so far; attempts are counted anew when ``PATIENCE.least`` more have come than ever before.

    Raises OSError of the last attempt, at once where another attempt cannot help (no such file, no permission).
    """
    stop, failures, reached = stop or threading.Event(), 0, progress()
    while True:
        try:
            return action()
        except OSError as error:
            failures += 1
            if progress() >= reached + PATIENCE.least:
                failures, reached = 1, progress()
            if is_permanent(error) or failures >= PATIENCE.attempts:
                raise
        longest = min(PATIENCE.longest_pause, PATIENCE.pause * 2.0 ** (failures - 1))
        share = xxhash.xxh3_64_intdigest(f"{socket.gethostname()} {name} {failures}".encode()) / 2**64
        if stop.wait(longest * (0.5 + 0.5 * share)):
            raise StoppedError


def is_permanent(error: BaseException) -> bool:
    """Return whether the same request will fail again: a file that does not exist, a wrong password."""
    cause: BaseException | None = error
    while cause is not None:
        status = getattr(cause, "status", None)  # HTTP's, of aiohttp's errors
        if isinstance(status, int):
            return 400 <= status < 500 and status not in WAIT_AND_ASK_AGAIN
        cause = cause.__cause__
    return getattr(error, "errno", None) in PERMANENT
