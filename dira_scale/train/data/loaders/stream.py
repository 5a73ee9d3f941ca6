"""The stream loader: the CPU loader, over whole shards that are fetched ahead into a cache on this node's disk."""

import logging
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from torch import Tensor

from dira_scale.base.arguments import ArgumentError, inside
from dira_scale.base.errors import UserError
from dira_scale.base.storage.retry import StoppedError
from dira_scale.train.data import random
from dira_scale.train.data.cache.ahead import DOWNLOADS, Ahead, Window, in_gb, in_order
from dira_scale.train.data.cache.folder import GB, open_cache
from dira_scale.train.data.cache.settings import CacheSettings
from dira_scale.train.data.cache.shards import MissingShardError, Shard, ShardCache, Shards
from dira_scale.train.data.cache.storage import CachedShards
from dira_scale.train.data.cache.traffic import traffic
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.cpu import CpuLoader
from dira_scale.train.data.order import EvalOrder, Order, StepSamples
from dira_scale.train.data.requests import Request

logger = logging.getLogger(__name__)

REPETITION = 2**15  # the first number of a substitute among its sample's occurrences: views of its own
STREAM = 100  # of random numbers; the views' are smaller


class Substitutes:
    """An order in which samples of missing shards are replaced.

    A substitute is drawn from the shards of the same batch, by a generator keyed by seed, epoch and sample: the same
    shards missing give the same batches, and no further shard is fetched. Asking for a step waits for its shards.
    """

    def __init__(self, order: Order | EvalOrder, shards: Shards, cache: ShardCache, seed: int) -> None:
        self.order, self.shards, self.cache, self.seed = order, shards, cache, seed
        self._warned: set[int] = set()

    def batch_at(self, step: int, rank: int = 0, world: int = 1) -> StepSamples:
        """Return the order's batch, with other samples in place of those whose shards are missing. Raises UserError
        where all shards of this process's part of the batch are missing."""
        positions = self.order.batch_at(step, rank, world)
        shard = self.shards.of(positions.index)
        missing = [number for number in in_order(shard) if self._is_missing(number)]
        lost = np.isin(shard, missing)
        if not lost.any():
            return positions
        if lost.all():
            last = self.cache.failed[self.shards.all[missing[-1]].name].why
            raise UserError(f"all shards of step {step} are missing, the last: {last}")
        index, occurrence = positions.index.copy(), positions.occurrence.copy()
        present = shard[~lost]
        draws = random.uniform(self.seed, positions.epoch, index[lost], occurrence[lost], view=0, n=2, stream=STREAM)
        for i, (u_shard, u_row) in zip(np.flatnonzero(lost), draws, strict=True):
            members = self.shards.members(int(present[int(u_shard * len(present))]))
            if isinstance(self.order, Order):
                members = members[self.order.draws(members)]
            index[i] = members[int(u_row * len(members))]
        occurrence[lost] = REPETITION + np.flatnonzero(lost) % REPETITION
        self.cache.seconds.add(skipped=int(lost.sum()))
        return replace(positions, index=index, occurrence=occurrence)

    def positions(self, steps: range, rank: int = 0, world: int = 1) -> list[StepSamples]:
        return [self.batch_at(step, rank, world) for step in steps]

    def _is_missing(self, number: int) -> bool:
        shard = self.shards.all[number]
        try:
            self.cache.ensure(shard)
        except MissingShardError as error:
            if number not in self._warned:
                self._warned.add(number)
                logger.warning(
                    "%s; samples of other shards take the place of its %d ",
                    error.why, len(self.shards.members(number)), extra={"every_rank": True},
                )  # fmt: skip
            return True
        return False


class StreamLoader(CpuLoader):
    """Batches as the CPU loader's.

    ``seconds`` also sums ``fetch`` (of the threads that fetch), ``fetched_mb`` (10^6 bytes that this process fetched)
    and ``skipped`` (samples that were replaced).

    Args:
        cache: where shards are kept, and what becomes of one that is unavailable.

    Raises as the CPU loader does, and ArgumentError when the cache cannot be used or is too small for the order.
    """

    sums = ("fetch", "fetched_mb", "skipped")

    def __init__(self, spec: LoaderSpec, *, cache: CacheSettings) -> None:
        self.settings = cache
        super().__init__(spec)
        self._open = 0
        self.skips = cache.missing == "skip"
        if self.skips:
            self.requests.order = Substitutes(self.order, self.shards, self.cache, spec.seed)  # type: ignore[assignment]
            # Asking for a step waits for its shards, and those of later steps may have no room.
            self.requests.together = 1

    def storage(self) -> CachedShards:
        """Return the cache over the shards, which is large enough for the order."""
        self.order, settings = self.requests.order, self.settings  # without substitutes
        rank, world = self.requests.rank, self.requests.world
        node = min(world, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        self.nodes = world // math.gcd(world, node)
        at_once = self.prefetch + 1
        with inside("cache"):
            folder = open_cache(settings)
            self.shards = Shards(self.samples, folder.folder)
            self.window = Window(self.order, self.shards, rank, world, node, at_once, folder.most)
        pair = self.requests.views.pair
        if pair != "image" and (settings.missing == "skip" or self.window.total > folder.most):
            enough = f"{in_gb(self.window.total)} (in GB), which holds all shards, and stop for missing ones"
            raise ArgumentError("cache.size", settings.size, f"{enough}: views of one {pair} are from any shard")
        self.cache = ShardCache(folder, threading.Event(), self.seconds)
        return CachedShards(self.shards, self.cache)

    def costs(self) -> str:
        """Return a line on the bytes that an epoch fetches; empty where all shards are on the cache's disk."""
        if not self.shards.kept.any() or not isinstance(self.order, Order):
            return ""
        return traffic(self.order, self.shards, self.cache.folder.most, self.nodes)

    @contextmanager
    def requested(self, steps: range) -> Iterator[Iterator[Request]]:
        if self.requests.share[0] == 0:
            self._tell()
        self._open += 1
        self.cache.stop.clear()
        ahead = Ahead(self.cache, self._needed, steps, self.window.steps, max(1, DOWNLOADS // self.requests.share[1]))

        def advancing() -> Iterator[Request]:
            for request in self.requests.of(steps):
                ahead.advance(request.step - self.prefetch)  # trained on meanwhile
                yield request

        try:
            yield advancing()
        finally:
            self._open -= 1
            if not self._open:  # a second iterator may be inside a first one
                self.cache.stop.set()
            ahead.close()

    def fill(self, slots: list[np.ndarray], mask: Tensor | None, request: Request, samples: Sequence[int]) -> None:
        try:
            super().fill(slots, mask, request, samples)
        except StoppedError as stopped:  # waited while another failed
            raise next(iter(self.cache.failed.values()), stopped) from None

    def _needed(self, step: int) -> list[Shard]:
        """Return the shards of a step that go through the cache."""
        index = self.order.batch_at(step, self.requests.rank, self.requests.world).index
        index = index[self.requests.shared(len(index))]
        return [self.shards.all[number] for number in in_order(self.shards.of(index)) if self.shards.kept[number]]

    def _tell(self) -> None:
        if not isinstance(self.order, Order) or not self.shards.kept.any():
            return
        window, folder = self.window, self.cache.folder
        logger.info(
            "cache: %s, up to %.3g GB; fetched ahead: what %d steps need, at most %d shards (%.3g of %.3g GB)",
            folder.folder, folder.most / GB, window.steps, window.count, window.bytes / GB,
            window.total / GB,
        )  # fmt: skip
