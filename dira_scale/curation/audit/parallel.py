"""One function over many jobs, in several processes, with results in order and few of them waiting in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from dira_scale.machine.workers import worker_pool

R = TypeVar("R")


def parallel_map(function: Callable[..., R], jobs: Iterable[tuple[Any, ...]], workers: int) -> Iterator[R]:
    """``function(*job)`` for each of ``jobs``; with one worker here, without another process."""
    if workers == 1:
        yield from (function(*job) for job in jobs)
        return
    waiting: deque[Future[R]] = deque()
    with worker_pool(workers, function.__module__) as pool:
        for job in jobs:
            waiting.append(pool.submit(function, *job))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
