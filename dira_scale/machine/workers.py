"""Worker processes: forked off one process that has imported what they need, so that the second one costs nothing.

They leave Ctrl-C to their parent, and do not outlive one that was killed.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

R = TypeVar("R")
CONTEXT = multiprocessing.get_context("forkserver")  # a fork of this process would inherit locks of running threads


def worker_pool(
    workers: int, preload: str, prepare: Callable[..., None] | None = None, *args: Any
) -> ProcessPoolExecutor:
    """``workers`` processes that have imported the module ``preload`` and first call ``prepare(*args)``."""
    CONTEXT.set_forkserver_preload([preload])
    return ProcessPoolExecutor(workers, CONTEXT, _begin, (dict(os.environ), prepare, args))


def parallel_map(function: Callable[..., R], jobs: Iterable[tuple[Any, ...]], workers: int) -> Iterator[R]:
    """``function(*job)`` for each of ``jobs``, in order, with few results waiting; one worker is this process.

    ``function`` is one of a module, or a ``partial`` of one.
    """
    if workers == 1:
        yield from (function(*job) for job in jobs)
        return
    waiting: deque[Future[R]] = deque()
    with worker_pool(workers, getattr(function, "func", function).__module__) as pool:
        for job in jobs:
            waiting.append(pool.submit(function, *job))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _begin(environment: dict[str, str], prepare: Callable[..., None] | None, args: tuple[Any, ...]) -> None:
    os.environ.clear()  # the one that is forked may be of an earlier call
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    if prepare:
        prepare(*args)
