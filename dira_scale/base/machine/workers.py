"""Worker processes, forked from a server that has imported what they need, so that further ones start quickly.

They ignore Ctrl-C, which the parent handles, and exit when the parent is killed.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

from dira_scale.base.errors import UserError, print_error

R = TypeVar("R")
CONTEXT = multiprocessing.get_context("forkserver")  # forking this process would copy locks held by its threads


def worker_pool(
    workers: int, preload: str, prepare: Callable[..., None] | None = None, *args: Any
) -> ProcessPoolExecutor:
    """``workers`` processes with the module ``preload`` imported, each calling ``prepare(*args)`` first."""
    CONTEXT.set_forkserver_preload([preload])
    return ProcessPoolExecutor(workers, CONTEXT, _start_worker, (dict(os.environ), prepare, args))


def refuse_in_worker(command: str) -> None:
    """Raise UserError where a script without a guard calls ``command`` while one of its own workers imports it.

    The worker ends with that line, not with a traceback.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.excepthook = lambda kind, error, trace: print_error(command, error)
        raise UserError(
            "in a script, call dira_scale.api below `if __name__ == '__main__':`, as its workers import the script"
        )


def parallel_map(function: Callable[..., R], jobs: Iterable[tuple[Any, ...]], workers: int) -> Iterator[R]:
    """``function(*job)`` for each of ``jobs``, in order, with few results buffered; one worker means this process.

    ``function`` is a module-level function, or a ``partial`` of one.
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


def _start_worker(environment: dict[str, str], prepare: Callable[..., None] | None, args: tuple[Any, ...]) -> None:
    os.environ.clear()  # the server's environment may be from an earlier call
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # a loader's server blocks it; a broken pool sends it
    parent = multiprocessing.parent_process()
    assert parent is not None

    def exit_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    if prepare:
        prepare(*args)
