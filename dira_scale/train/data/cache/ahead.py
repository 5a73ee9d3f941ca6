"""Fetching the shards of the next steps: which they are is known, because the order is a function of the step."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError
from dira_scale.base.storage.retry import StoppedError
from dira_scale.train.data.cache.folder import GB, MB
from dira_scale.train.data.cache.shards import Shard, ShardCache, Shards
from dira_scale.train.data.order import EvalOrder, Order

DOWNLOADS = 16  # at once, which a loader's processes share; at least one each
PLACES = 4  # of an epoch that are looked at
MOST_STEPS = 256  # fetched ahead
MORE_SHARDS = 8  # than are read at once are enough to fetch ahead


class Window:
    """The number of steps to fetch ahead, so that a fetched shard stays in the cache until it is used.

    Args:
        order, shards: of the loader; ``rank``, ``world``: its process; ``ranks``: processes of this node.
        at_once: steps whose samples are read at once.
        capacity: bytes that the cache holds.

    Attributes:
        steps: to fetch ahead; ``count`` and ``bytes`` of the shards that they touch on all processes of the node
            together, in the place of the epoch where they are most.
        total: bytes of all shards.

    Raises ArgumentError of ``size``, in GB, where ``at_once`` steps do not fit.
    """

    def __init__(
        self, order: Order | EvalOrder, shards: Shards, rank: int, world: int, ranks: int, at_once: int, capacity: int
    ) -> None:
        # Training goes on into the next epoch, evaluation ends.
        epoch, end = (order.steps_per_epoch, None) if isinstance(order, Order) else (order.steps, order.steps)
        starts = sorted({epoch * i // PLACES for i in range(PLACES)})
        touched = np.zeros((len(starts), len(shards.all)), bool)
        self.total = int(shards.sizes[shards.kept].sum())
        self.steps, steps, enough = 0, at_once, None
        while enough is None or (self.count < enough and steps <= MOST_STEPS):
            for row, start in zip(touched, starts, strict=True):
                for step in range(start + self.steps, min(start + steps, end or start + steps)):
                    row[shards.of(order.batch_at(step, rank, world).index)] = True
            touched &= shards.kept
            size = min(ranks * int((touched @ shards.sizes).max()), self.total)
            if size > capacity and enough is not None:
                break
            self.count = min(ranks * int(touched.sum(1).max()), int(shards.kept.sum()))
            if size > capacity:
                raise ArgumentError(
                    "size",
                    capacity / GB,
                    f"{in_gb(size)} (in GB): this order reads {self.count} shards at once on a "
                    f"node, {size / MB:,.1f} MB (all have {self.total / MB:,.1f} MB); larger blocks or fewer lanes "
                    "read fewer",
                )
            enough = enough or min(self.count + MORE_SHARDS, int(shards.kept.sum()))
            self.bytes, self.steps, steps = size, steps, 2 * steps


def in_gb(count: int) -> str:
    """Return so many bytes in GB, rounded up."""
    return f"{np.ceil(count / GB * 1000) / 1000:g}"


class Ahead:
    """Threads that have the shards of ``window`` steps in the cache, from the one that is trained on.

    Args:
        needed: the shards of a step.
        steps: as of ``Loader.iterate``; ``downloads``: at once.
    """

    def __init__(
        self, cache: ShardCache, needed: Callable[[int], list[Shard]], steps: range, window: int, downloads: int
    ) -> None:
        self.cache, self.needed, self.window = cache, needed, window
        self._now, self._closed, self._news = steps.start, False, threading.Condition()
        self._under_way: set[str] = set()
        self._pool = ThreadPoolExecutor(downloads, thread_name_prefix="loader-fetch")
        self._walker = threading.Thread(target=self._walk, args=[steps], name="loader-ahead", daemon=True)
        self._walker.start()

    def advance(self, step: int) -> None:
        """``step`` is the next to be trained on."""
        with self._news:
            self._now = max(self._now, step)
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
            shards = self.needed(step)
            # Their time says that they are needed later than all that were touched before: those make room first.
            absent = self.cache.folder.touch([shard.name for shard in shards])
            for shard in shards:
                if shard.name in absent and shard.name not in self._under_way:
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
