"""A file from some byte on, in blocks: from a disk, an HTTP server, or any other of fsspec's stores.

Every wait is bounded by ``PATIENCE`` and ends when ``stop`` is set.
"""

import asyncio
import errno
import threading
import time
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from dira_scale.base.storage.retry import PATIENCE, StoppedError, retry
from dira_scale.base.storage.store import is_local, with_errno

T = TypeVar("T")
PIECE = 2**23  # bytes of one request to a store: enough for its latency hardly to count
BLOCK = 2**20  # bytes at once from a disk or a connection
POLL = 0.2  # seconds after which a wait looks whether it is to stop


@contextmanager
def stream(path: Path, start: int, size: int, stop: threading.Event) -> Iterator[tuple[int, Iterator[bytes]]]:
    """The bytes of ``path`` (``size`` in all) from ``start`` on, and where they really start.

    That is 0 if an HTTP server answers with the whole file because it knows no ranges.

    Raises:
        OSError: with its errno; also where fewer than ``PATIENCE.least`` bytes came in ``PATIENCE.silence`` seconds.
        StoppedError: ``stop`` was set.
    """
    if is_local(path):
        yield start, _steady(path, _from_disk(path, start, size), stop)
    elif "http" in path.fs.protocol:  # type: ignore[attr-defined]
        with with_errno(path, StoppedError):
            response = _ask(path, start, stop)
        try:
            blocks = iter(lambda: _await(path.fs.loop, response.content.read(BLOCK), stop), b"")  # type: ignore[attr-defined]
            yield start if response.status == 206 else 0, _steady(path, blocks, stop)
        finally:
            path.fs.loop.call_soon_threadsafe(response.close)  # type: ignore[attr-defined]
    else:
        yield start, _steady(path, _in_pieces(path, start, size, stop), stop)


def fetch(path: Path, most: int) -> bytes:
    """All of a file, in several attempts if need be; from a disk in one.

    Raises OSError with its errno, also where it has more than ``most`` bytes: a stranger's server may never end.
    """

    def attempt() -> bytes:
        content, received = [], 0
        with with_errno(path):
            if is_local(path) or "http" not in path.fs.protocol:  # type: ignore[attr-defined]
                if path.stat().st_size <= most:
                    return path.read_bytes()
                raise too_long
            with stream(path, 0, 0, threading.Event()) as (_, blocks):
                for block in blocks:
                    content.append(block)
                    received += len(block)
                    if received > most:
                        raise too_long
        return b"".join(content)

    too_long = OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return attempt() if is_local(path) else retry(attempt, str(path))


def _steady(path: Path, blocks: Iterator[bytes], stop: threading.Event) -> Iterator[bytes]:
    with with_errno(path, StoppedError):
        for block in steady(blocks):
            if stop.is_set():
                raise StoppedError
            yield block


def steady(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the blocks. Raises TimeoutError when they trickle."""
    since, received = time.monotonic(), 0
    for block in blocks:
        received += len(block)
        if time.monotonic() - since > PATIENCE.silence:
            if received < PATIENCE.least:
                raise TimeoutError(f"only {received} bytes in {PATIENCE.silence:g} s")
            since, received = time.monotonic(), 0
        yield block


def _from_disk(path: Path, start: int, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while start < size and (block := file.read(min(BLOCK, size - start))):
            start += len(block)
            yield block


def _ask(path: Any, start: int, stop: threading.Event) -> Any:
    """The response, whose status is that of a success."""
    from aiohttp import ClientTimeout

    fs, url = path.fs, path.path
    options = dict(fs.kwargs)
    ranged = {"Range": f"bytes={start}-"} if start else {}
    headers = options.pop("headers", {}) | {"Accept-Encoding": "identity"} | ranged

    async def ask() -> Any:
        session = await fs.set_session()
        # aiohttp's own limit is five minutes for all of a file.
        response = await session.get(fs.encode_url(url), headers=headers, timeout=ClientTimeout(total=None), **options)
        if response.status >= 400:
            response.close()
            if response.status in (404, 410):
                raise FileNotFoundError(url)
            response.raise_for_status()
        return response

    return _await(fs.loop, ask(), stop)


def _in_pieces(path: Any, start: int, size: int, stop: threading.Event) -> Iterator[bytes]:
    """Yield the content of ranged requests, which every store knows."""
    for first in range(start, size, PIECE):
        last = min(first + PIECE, size)
        if path.fs.async_impl:
            yield _await(path.fs.loop, path.fs._cat_file(path.path, start=first, end=last), stop)
        else:
            yield path.fs.cat_file(path.path, start=first, end=last)


def _await(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], stop: threading.Event) -> T:
    """The coroutine's result, from fsspec's thread. Raises TimeoutError after ``PATIENCE.silence``."""
    future, deadline = asyncio.run_coroutine_threadsafe(coroutine, loop), time.monotonic() + PATIENCE.silence
    while True:
        try:
            return future.result(POLL)
        except TimeoutError:
            if future.done():
                return future.result()
        except CancelledError as error:
            raise TimeoutError("the connection was closed") from error
        if stop.is_set():
            future.cancel()
            raise StoppedError
        if time.monotonic() > deadline:
            future.cancel()
            raise TimeoutError(f"no byte in {PATIENCE.silence:g} s")
