"""Worker processes: forked off one process that has imported what they need, so that the second one costs nothing.

They leave Ctrl-C to their parent, and do not outlive one that was killed.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")  # a fork of this process would inherit locks of running threads


def worker_pool(
    workers: int, preload: str, prepare: Callable[..., None] | None = None, *args: Any
) -> ProcessPoolExecutor:
    """``workers`` processes that have imported the module ``preload`` and first call ``prepare(*args)``."""
    CONTEXT.set_forkserver_preload([preload])
    return ProcessPoolExecutor(workers, CONTEXT, _begin, (dict(os.environ), prepare, args))


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
