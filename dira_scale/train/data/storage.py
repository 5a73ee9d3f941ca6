"""Storages, from which the bytes of samples are read. A loader is built with one, and keeps it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.dataset import ReadInto
from dira_scale.dataset.pixels.arena import Allocate
from dira_scale.dataset.pixels.headers import Payload


class Storage(Protocol):
    """The bytes of row ``row`` in the manifest of dataset number ``dataset`` (``Samples.place``). Thread-safe.

    Methods raise OSError, which ``SampleReader`` makes an error that names the sample, or a UserError of their own.
    """

    def payload(self, dataset: int, row: int, new: Allocate) -> memoryview:
        """Return the encoded image, in memory that ``new`` makes. ``SampleReader`` compares its checksum."""

    def mask(self, dataset: int, row: int) -> Payload:
        """Return the encoded mask of an image that has one."""

    def shard(self, dataset: int, row: int) -> AbstractContextManager[ReadInto]:
        """Open the shard of a volume in bricks, or of images that are read at once: a function that fills a buffer from
        an offset in it, and returns how many bytes it got."""

    def renew(self, dataset: int, row: int) -> bool:
        """Have that shard fetched again, after a brick was damaged. Return False where it cannot be."""


class ShardFiles(Storage):
    """The datasets' own shards, on a disk or in an object store."""

    def __init__(self, datasets: Sequence[ShardedDataset]) -> None:
        self.datasets = datasets

    def payload(self, dataset: int, row: int, new: Allocate) -> memoryview:
        return self.datasets[dataset].read_into(row, new)

    def mask(self, dataset: int, row: int) -> Payload:
        payload = self.datasets[dataset].read_mask(row)
        assert payload is not None
        return payload

    def shard(self, dataset: int, row: int) -> AbstractContextManager[ReadInto]:
        return nullcontext(self.datasets[dataset].reader(row))

    def renew(self, dataset: int, row: int) -> bool:
        return False
