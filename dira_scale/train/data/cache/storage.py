"""The cache as a storage of samples: whole shards, fetched to this node's disk."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import xxhash

from dira_scale.dataset.manifest.dataset import ReadInto
from dira_scale.dataset.pixels.arena import Allocate
from dira_scale.train.data.cache.shards import MissingShardError, ShardCache, Shards
from dira_scale.train.data.storage import Storage

logger = logging.getLogger(__name__)


class CachedShards(Storage):
    """The ``shards`` of some samples in ``cache``, and those that are on its disk where they are.

    A copy that went bad on this disk is fetched again, once. All methods raise as ``ShardCache.open``; where a shard is
    missing, they set the cache's ``stop``: the others of the batch need not wait for theirs.
    """

    def __init__(self, shards: Shards, cache: ShardCache) -> None:
        self.shards, self.cache, self.datasets = shards, cache, shards.samples.datasets

    def payload(self, dataset: int, row: int, new: Allocate) -> memoryview:
        origin = self.datasets[dataset]
        offset, buffer = int(origin.column("offset")[row]), new((int(origin.column("size")[row]),), np.uint8).data
        payload = self._read(dataset, row, offset, buffer)
        if xxhash.xxh3_64_intdigest(payload) != origin.checksums[row] and self.renew(dataset, row):
            payload = self._read(dataset, row, offset, buffer)
        return payload

    def mask(self, dataset: int, row: int) -> memoryview:
        """The mask is in its image's shard; the manifest has no checksum of it."""
        record = self.datasets[dataset].index.records[row]
        buffer = np.empty(int(record["mask_size"]), np.uint8).data
        return self._read(dataset, row, int(record["mask_offset"]), buffer)

    @contextmanager
    def shard(self, dataset: int, row: int) -> Iterator[ReadInto]:
        try:
            with self.cache.open(self.shards.at(dataset, row)) as descriptor:
                yield lambda buffer, offset: os.preadv(descriptor, [buffer], offset)
        except MissingShardError:
            self.cache.stop.set()
            raise

    def renew(self, dataset: int, row: int) -> bool:
        shard = self.shards.at(dataset, row)
        if not shard.in_place:
            logger.warning("the cache's copy of %s is damaged; it is fetched again", shard.name)
            self.cache.folder.drop(shard.name)
        return not shard.in_place

    def _read(self, dataset: int, row: int, offset: int, buffer: memoryview) -> memoryview:
        """Return the buffer, filled from ``offset`` on; shorter at the file's end."""
        with self.shard(dataset, row) as read:
            return buffer[: read(buffer, offset)]
