"""A contender's turn, from memory or from the disk. Without dira_scale, for ``peers_run.py``."""

import gc
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any

import numpy as np

from benchmarks.loader.pagecache import evict
from benchmarks.loader.turns import Pace

FOREVER = 10**6  # batches
TRIES = 5  # of clearing the page cache


@dataclass(frozen=True)
class CropList:
    """The crops that every contender takes, drawn beforehand; after the last batch the first one again.

    Attributes:
        volume: int [batches, b], whose volume.
        start: int [batches, b, 3], where its crop begins, (z, y, x).
        size: (depth, height, width).
    """

    volume: np.ndarray
    start: np.ndarray
    size: tuple[int, ...]

    @property
    def name(self) -> str:
        """As papers write it, the depth last: 64x64x32."""
        return "x".join(map(str, reversed(self.size)))

    def batch(self, number: int) -> list[tuple[int, tuple[slice, ...]]]:
        """Of each crop of a batch: its volume, and a slice for each axis."""
        number %= len(self.volume)
        starts = self.start[number].tolist()
        spans = [tuple(slice(a, a + side) for a, side in zip(start, self.size, strict=True)) for start in starts]
        return list(zip(self.volume[number].tolist(), spans, strict=True))

    def save(self, file: Path) -> None:
        np.savez(file, volume=self.volume, start=self.start, size=self.size)

    @classmethod
    def load(cls, file: Path) -> "CropList":
        stored = np.load(file)
        return cls(stored["volume"], stored["start"], tuple(stored["size"].tolist()))


@dataclass(frozen=True)
class Contender:
    """One way to read crops.

    Attributes:
        name: in the tables, the same in every case.
        kind: ``ours``, ``others`` or ``limit``.
        read: yields the batches from ``first`` up to but excluding ``stop``, [b, 1, D, H, W] each. Begins with nothing
            prepared.
        files: what it reads in every turn; none: it has all in memory.
        same: whether it gives the crops of the list, voxel by voxel.
    """

    name: str
    kind: str
    read: Callable[[int, int], Generator[Any, None, None]]
    files: Sequence[Path] = ()
    same: bool = True


def turn(contender: Contender, seconds: float, from_disk: bool) -> Pace:
    """A turn of about ``seconds``. Raises OSError where the kernel keeps the files in memory that it should drop."""
    return (cold if from_disk else warm)(contender, seconds)


def warm(contender: Contender, seconds: float) -> Pace:
    """Crops/s and processor time of a crop, in all threads of this process; the start of a turn counts."""
    crops, began, before = 0, perf_counter(), process_time()
    with closing(contender.read(0, FOREVER)) as batches:
        for batch in batches:
            crops += len(batch)
            if perf_counter() - began >= seconds:
                break
        return _pace(crops, perf_counter() - began, process_time() - before)


def cold(contender: Contender, seconds: float) -> Pace:
    """The same with the files taken out of the page cache before each batch, which does not count."""
    crops, wall, cores, number = 0, 0.0, 0.0, 0
    while wall < seconds:
        _clear(contender.files)
        began, before = perf_counter(), process_time()
        with closing(contender.read(number, number + 1)) as batches:
            crops += len(next(batches))
            wall, cores, number = wall + perf_counter() - began, cores + process_time() - before, number + 1
    return _pace(crops, wall, cores)


def _clear(files: Sequence[Path]) -> None:
    """Raises OSError where the kernel keeps pages, also after a moment: some are just being read ahead, some mapped by
    arrays that await collection."""
    for _ in range(TRIES):
        if not (stays := evict(files)):
            return
        gc.collect()
        sleep(0.05)
    raise OSError(f"{stays:.1%} of the pages stay in the cache, says mincore")


def _pace(crops: int, wall: float, cores: float) -> Pace:
    return Pace(crops / wall, 1000 * max(cores, 1e-9) / crops)


def check(contender: Contender, crops: CropList, volumes: Sequence[np.ndarray]) -> None:
    """Raises ValueError unless the first batches are the crops of ``volumes``, where ``contender`` is to take them."""
    if not contender.same:
        return
    with closing(contender.read(0, 2)) as batches:
        for number, batch in enumerate(batches):
            for crop, (volume, span) in zip(batch, crops.batch(number), strict=True):
                if not np.array_equal(np.asarray(crop)[0], volumes[volume][span]):
                    raise ValueError(f"{contender.name}: other crops than those asked for")
