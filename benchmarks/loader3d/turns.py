"""The crops that are read, who reads them, and a turn of it. Without dira_scale, for ``peers.py``."""

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from benchmarks.turns import Pace


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
        """Each crop of a batch: its volume, and a slice for each axis."""
        number %= len(self.volume)
        starts = self.start[number].tolist()
        spans = [tuple(slice(a, a + side) for a, side in zip(start, self.size, strict=True)) for start in starts]
        return list(zip(self.volume[number].tolist(), spans, strict=True))

    def batches(self) -> Iterator[list[tuple[int, tuple[slice, ...]]]]:
        """All batches, without end."""
        return map(self.batch, itertools.count())

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
        read: yields batches without end, [b, 1, D, H, W] each. Begins with nothing prepared.
        files: what it reads in every turn; none: it has all in memory.
        same: whether it gives the crops of the list, voxel by voxel.
    """

    name: str
    read: Callable[[], Generator[Any, None, None]]
    files: Sequence[Path] = ()
    same: bool = True


def turn(contender: Contender, seconds: float) -> Pace:
    """Crops/s and processor time of a crop, in all threads of this process; the start of a turn counts."""
    crops, began, before = 0, perf_counter(), process_time()
    with closing(contender.read()) as batches:
        for batch in batches:
            crops += len(batch)
            if perf_counter() - began >= seconds:
                break
        cores = process_time() - before
        return Pace(crops / (perf_counter() - began), 1000 * max(cores, 1e-9) / crops)


def check(contender: Contender, crops: CropList, volumes: Sequence[np.ndarray]) -> None:
    """Raises ValueError unless the first batches are the crops of ``volumes``, where ``contender`` is to take them."""
    if not contender.same:
        return
    with closing(contender.read()) as batches:
        for number, batch in enumerate(itertools.islice(batches, 2)):
            for crop, (volume, span) in zip(batch, crops.batch(number), strict=True):
                if not np.array_equal(np.asarray(crop)[0], volumes[volume][span]):
                    raise ValueError(f"{contender.name}: other crops than those asked for")
