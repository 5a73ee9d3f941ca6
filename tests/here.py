"""Work for a pool of processes, done in this one."""

import pickle
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Here(ThreadPoolExecutor):
    """Takes the place of the pool of processes, whose start takes seconds; what they would be sent is pickled, too."""

    def __init__(self, workers: int, *_: Any):
        super().__init__(workers)

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:  # type: ignore[override]
        return super().submit(function, *pickle.loads(pickle.dumps(args)))
