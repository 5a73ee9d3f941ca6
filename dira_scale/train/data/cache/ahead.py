"""Fetching the shards of the next steps: which they are is known, because the order is a function of the step."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from dira_scale.base.errors import UserError
from dira_scale.base.storage.retry import StoppedError
from dira_scale.train.data.cache.shards import Shard, ShardCache

DOWNLOADS = 4  # at once, per process


class Ahead:
    """Threads that have the shards of ``window`` steps in the cache, from the one that is trained on.

    Args:
        needed: the shards of a step.
        start_step, stop_step: as of ``Loader.iterate``.
    """

    def __init__(
        self,
        cache: ShardCache,
        needed: Callable[[int], list[Shard]],
        start_step: int,
        stop_step: int,
        window: int,
    ) -> None:
        self.cache, self.needed, self.window = cache, needed, window
        self._now, self._closed, self._news = start_step, False, threading.Condition()
        self._under_way: set[str] = set()
        self._pool = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="loader-fetch")
        steps = range(start_step, stop_step)
        self._walker = threading.Thread(target=self._walk, args=[steps], name="loader-ahead", daemon=True)
        self._walker.start()

    def advance(self, step: int) -> None:
        """``step`` is the next to be trained on."""
        with self._news:
            self._now = step
            self._news.notify_all()

    def close(self) -> None:
        """End the threads; sooner if the cache's ``stop`` is set."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._walker.join()
        self._pool.shutdown(cancel_futures=True)

    def _walk(self, steps: range) -> None:
        for step in steps:
            with self._news:
                self._news.wait_for(lambda step=step: self._closed or step < self._now + self.window)  # type: ignore[misc]
                if self._closed:
                    return
            for shard in self.needed(step):
                # Its time says that it is needed later than all that were touched before: those make room first.
                if not self.cache.folder.touch(shard.name) and shard.name not in self._under_way:
                    self._under_way.add(shard.name)
                    self._pool.submit(self._fetch, shard)

    def _fetch(self, shard: Shard) -> None:
        # Whoever reads the shard meets the same error, and raises it.
        with suppress(UserError, StoppedError):
            self.cache.ensure(shard)
        self._under_way.discard(shard.name)


def in_order(numbers: np.ndarray) -> list[int]:
    """Each number once, in the order of its first occurrence."""
    return list(dict.fromkeys(numbers.tolist()))
