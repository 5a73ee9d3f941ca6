"""The shards that samples lie in, and their copies in the cache."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from dira_scale.base.errors import UserError
from dira_scale.base.storage.retry import PATIENCE, StoppedError, retry
from dira_scale.base.storage.store import is_local
from dira_scale.base.storage.streams import stream
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.tar import checksum
from dira_scale.train.data.cache.folder import MB, CacheFolder, Claim
from dira_scale.train.data.device_copies import StageSeconds
from dira_scale.train.data.samples import Samples

POLL = 0.05  # seconds between looks at what another process fetches
REFUSALS = 20  # of a full disk, until it is the user's


class MissingShardError(UserError):
    """A shard could not be had, in all attempts; ``why`` is the sentence without advice."""

    def __init__(self, shard: "Shard", error: OSError) -> None:
        self.why = f"shard {shard.path} is unavailable ({error.strerror or error})"
        super().__init__(
            f"{self.why}: see whether it can be read from here, and is what was sharded; or train without it, in a new "
            "run whose cache skips missing shards"
        )

    def __reduce__(self) -> tuple[Any, ...]:  # crosses processes
        return UserError, (str(self),)


@dataclass(frozen=True)
class Shard:
    """One file of a dataset.

    Attributes:
        path: where it comes from.
        size: bytes.
        checksum: 64-bit xxHash3, hex; None where ``dataset.json`` has none.
        name: in the cache; the same for the same content.
        in_place: it is on the cache's disk already, so that a copy would gain nothing.
    """

    path: Path
    size: int
    checksum: str | None
    name: str
    in_place: bool

    @classmethod
    def of(cls, dataset: ShardedDataset, name: str, is_here: Callable[[Path], bool]) -> "Shard":
        """``is_here``: whether a folder is on the cache's disk."""
        path, size, checksum = dataset.file(name), dataset.info.shards[name], dataset.info.checksums.get(name)
        key = checksum or xxhash.xxh3_64_hexdigest(f"{dataset.hash} {path}".encode())
        return cls(path, size, checksum, f"{path.stem}-{key}-{size}{path.suffix}", is_here(path.parent))


class Shards:
    """The shards of ``samples``, numbered through all datasets in the order of their manifests.

    Attributes:
        all: by their numbers.
        kept: whether it goes through the cache in ``folder``, bool [shards]; without one all do. ``sizes``: bytes.
    """

    def __init__(self, samples: Samples, folder: Path | None) -> None:
        self.samples = samples
        self.all: list[Shard] = []
        device = folder.stat().st_dev if folder else -1
        # Of each folder once: on a network disk the answer is a request to the server.
        is_here = cache(lambda path: is_local(path) and path.is_dir() and path.stat().st_dev == device)
        self._codes, self._first = [], []
        for dataset in samples.datasets:
            codes, names = dataset.codes("shard")
            self._codes.append(codes)
            self._first.append(len(self.all))
            self.all += [Shard.of(dataset, name, is_here) for name in names]
        self.sizes = np.array([shard.size for shard in self.all])
        self.kept = np.array([not shard.in_place for shard in self.all])
        self._members: dict[int, np.ndarray] = {}

    def of(self, index: np.ndarray) -> np.ndarray:
        """Their numbers, int64 [b], for samples ``index`` [b]."""
        dataset, row = self.samples.locate(index)
        numbers = np.empty(len(index), np.int64)
        for d, (codes, first) in enumerate(zip(self._codes, self._first, strict=True)):
            here = dataset == d
            numbers[here] = codes[row[here]] + first
        return numbers

    def at(self, dataset: int, row: int) -> Shard:
        """Return the shard of one row of a dataset's manifest."""
        return self.all[self._first[dataset] + int(self._codes[dataset][row])]

    def members(self, number: int) -> np.ndarray:
        """Return the samples of a shard, int64."""
        if number not in self._members:
            d = int(np.searchsorted(self._first, number, side="right")) - 1
            rows = self.samples.rows[d]
            members = np.flatnonzero(self._codes[d][rows] == number - self._first[d])
            self._members[number] = members + sum(self.samples.sizes[:d])
        return self._members[number]


class ShardCache:
    """Whole, verified copies of shards, which are fetched when they are not there. Thread-safe.

    Args:
        stop: set by whoever waits no longer; waits then end with StoppedError.
        seconds: ``fetch`` and ``fetched_mb`` are added to it.

    Attributes:
        failed: the errors of shards that could not be had; they are not tried again.
    """

    def __init__(self, folder: CacheFolder, stop: threading.Event, seconds: StageSeconds) -> None:
        self.folder, self.stop, self.seconds = folder, stop, seconds
        self.failed: dict[str, MissingShardError] = {}

    @contextmanager
    def open(self, shard: Shard) -> Iterator[int]:
        """Yield a descriptor of the complete shard, which stays in the cache meanwhile.

        Raises MissingShardError if it is unavailable, UserError if there is no room for it.
        """
        if not shard.in_place:
            descriptor = self.folder.open(shard.name)
            if descriptor is None:
                descriptor = self._obtained(shard)
        else:
            try:
                descriptor = os.open(shard.path, os.O_RDONLY)
            except OSError as error:
                self.failed[shard.name] = MissingShardError(shard, error)
                raise self.failed[shard.name] from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def ensure(self, shard: Shard) -> None:
        """Have it in the cache. Raises as :meth:`open`."""
        with self.open(shard):
            pass

    def _obtained(self, shard: Shard) -> int:
        seen, since = -1, time.monotonic()
        while True:
            if shard.name in self.failed:
                raise self.failed[shard.name]
            claim = self.folder.claim(shard.name, shard.size)
            if claim is Claim.COMPLETE:
                if (descriptor := self.folder.open(shard.name)) is not None:
                    return descriptor
            elif not isinstance(claim, Claim):
                if shard.name in self.failed:  # another thread gave up, and its claim, since we looked
                    claim.close()
                    continue
                return self._filled(shard, claim)
            if (progress := self.folder.progress(shard.name)) != seen:
                seen, since = progress, time.monotonic()
            if time.monotonic() - since > PATIENCE.neighbour:
                assert isinstance(claim, Claim)
                raise UserError(
                    f"the cache {self.folder.folder} does not get {shard.name}: {claim.value}, for "
                    f"{PATIENCE.neighbour:g} s; is a process stopped? Name another folder for it"
                )
            if self.stop.wait(POLL):
                raise StoppedError

    def _filled(self, shard: Shard, file: FileIO) -> int:
        began = time.perf_counter()
        with file:
            try:
                retry(
                    lambda: self._transfer(shard, file), shard.name, self.stop, lambda: os.fstat(file.fileno()).st_size
                )
            except OSError as error:
                self.failed[shard.name] = MissingShardError(shard, error)
                raise self.failed[shard.name] from error
            finally:
                self.seconds.add(fetch=time.perf_counter() - began)
            return self.folder.complete(file, shard.name)

    def _transfer(self, shard: Shard, file: FileIO) -> None:
        """One attempt: append what is missing, then verify. Raises OSError."""
        start = file.seek(0, os.SEEK_END)
        if start < shard.size:
            with stream(shard.path, start, shard.size, self.stop) as (first, blocks):
                if first != start:
                    file.truncate(first)
                    file.seek(first)
                for block in blocks:
                    self._write(shard, file, block)
        if (size := file.tell()) != shard.size:
            if size > shard.size:
                file.truncate(0)
            raise OSError(errno.EIO, f"it has {size} bytes instead of {shard.size}")
        if shard.checksum is not None and checksum(file) != shard.checksum:
            file.truncate(0)
            raise OSError(errno.EIO, "its checksum is not that of dataset.json")

    def _write(self, shard: Shard, file: FileIO, block: bytes) -> None:
        left, refusals = memoryview(block), 0
        while left:
            try:
                left = left[file.write(left) :]
            except OSError as error:
                refusals += 1
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)  # others fill this disk too
                if full and refusals < REFUSALS and not self.stop.wait(POLL):
                    self.folder.make_room(shard.name, shard.size)
                    continue
                raise UserError(
                    f"the cache {self.folder.folder} cannot be written to: {error.strerror}; name another folder for "
                    "it, or give it a smaller size (in GB)"
                ) from error
        self.seconds.add(fetched_mb=len(block) / MB)
