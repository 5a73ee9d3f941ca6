"""Volumes in bricks: a crop reads and decodes those that it needs, each once, and checks each by itself.

A payload is a contiguous frame of blosc2, whose chunks are the bricks in C order; then the chunks of a single value,
which a frame only marks; then a table with a row for each brick: where its chunk lies in the payload, how long it is,
and its checksum. Whoever opens the payload with blosc2 sees the frame.
"""

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter

import imagecodecs
import numpy as np
import xxhash

from dira_scale.pixels.boxes import Part
from dira_scale.pixels.headers import Payload

# Voxels of a brick. Measured (docs/evidence/performance.md): smaller ones decode fewer voxels beyond a crop, but each
# costs a call; with LZ4HC a core cuts 3 times the crops that it does with zstd, and a dataset stays below its .nii.gz.
BRICK = (16, 32, 32)
TABLE = np.dtype([("offset", "<u8"), ("size", "<u4"), ("xxh3", "<u8")])

Fetch = Callable[[int, int], memoryview]  # bytes of the payload, until the next call: where they begin, how many


class BrickError(ValueError):
    """A brick, or the row of the table that is about it, is not what was written."""


def encode(voxels: np.ndarray) -> bytes:
    """The payload of ``voxels`` [Z, Y, X] or [C, Z, Y, X]; the same library gives the same bytes on any machine."""
    import blosc2  # images do not need it

    brick = _brick(voxels.shape)
    array = blosc2.asarray(
        voxels,
        chunks=brick,
        blocks=brick,
        cparams=blosc2.CParams(
            codec=blosc2.Codec.LZ4HC, clevel=5, filters=[blosc2.Filter.SHUFFLE], filters_meta=[0], nthreads=1
        ),
    )
    frame: bytes = array.to_cframe()
    table = np.empty(array.schunk.nchunks, TABLE)
    at, beyond, values = _header_size(frame), bytearray(), dict[bytes, int]()
    for number, row in enumerate(table):
        chunk = array.schunk.get_chunk(number)
        if frame[at : at + len(chunk)] == chunk:
            row["offset"], at = at, at + len(chunk)
        else:
            if chunk not in values:
                values[chunk] = len(frame) + len(beyond)
                beyond += chunk
            row["offset"] = values[chunk]
        row["size"], row["xxh3"] = len(chunk), _checksum(chunk, number)
    return frame + bytes(beyond) + table.tobytes()


@dataclass
class Bricks:
    """The bricks of one payload.

    Attributes:
        shape: [Z, Y, X] or [C, Z, Y, X], of the whole volume.
        dtype: of its voxels.
        size: of the payload, in bytes.
        fetch: reads some of them.
        seconds: that were spent in reading.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    size: int
    fetch: Fetch
    seconds: float = field(default=0.0)

    def cut(self, parts: Sequence[Part], into: Sequence[np.ndarray | None] | None = None) -> list[np.ndarray]:
        """The voxels [C, D, H, W] of each part; a brick that several parts need is read and decoded once.

        into: of each part the array that takes its voxels; None: a new one.
        Raises BrickError, which names the brick, where something is damaged.
        """
        brick, channels = _brick(self.shape)[-3:], self.shape[0] if len(self.shape) == 4 else 1
        grid = (channels, *(-(-n // b) for n, b in zip(self.shape[-3:], brick, strict=True)))
        given = into or [None] * len(parts)
        results = [
            np.empty((channels, *(s.stop - s.start for s in part)), self.dtype) if array is None else array
            for part, array in zip(parts, given, strict=True)
        ]
        takers: dict[int, list[tuple[np.ndarray, Part]]] = {}
        for part, result in zip(parts, results, strict=True):
            for number, taken, of_brick in _overlaps(part, result, brick, grid):
                takers.setdefault(number, []).append((taken, of_brick))
        if not takers:
            return results
        decoded = np.empty(brick, self.dtype)
        flat = decoded.reshape(-1).view(np.uint8)
        for number, chunk, checksum in self._chunks(np.array(sorted(takers)), math.prod(grid)):
            if _checksum(chunk, number) != checksum:
                raise BrickError(f"brick {number}: its checksum differs from the table's")
            try:
                done = imagecodecs.blosc2_decode(chunk, out=flat, numthreads=1)  # type: ignore[arg-type]  # any buffer
                if len(done) != len(flat):
                    raise ValueError(f"it has {len(done)} bytes instead of {len(flat)}")
            except (RuntimeError, ValueError) as error:
                raise BrickError(f"brick {number}: {error}") from error
            for taken, of_brick in takers[number]:
                taken[...] = decoded[of_brick]
        return results

    def _chunks(self, needed: np.ndarray, count: int) -> Iterator[tuple[int, memoryview, int]]:
        """Number, chunk and checksum of the bricks ``needed``, of ``count``; neighbours are read together."""
        table = self.size - count * TABLE.itemsize
        if table < 0:
            raise BrickError(f"{self.size} bytes are fewer than the table of {count} bricks has")
        first, last = int(needed[0]), int(needed[-1])
        rows = np.frombuffer(self._fetch(table + first * TABLE.itemsize, (last + 1 - first) * TABLE.itemsize), TABLE)
        rows = rows[needed - first]
        starts, ends = rows["offset"], rows["offset"] + rows["size"]
        if wrong := np.flatnonzero((ends > table) | (starts > table)).tolist():
            raise BrickError(f"brick {needed[wrong[0]]}: its row of the table is damaged")
        runs = np.flatnonzero(starts[1:] != ends[:-1]) + 1
        numbers, sizes, sums = needed.tolist(), rows["size"].tolist(), rows["xxh3"].tolist()
        for i, j in pairwise([0, *runs.tolist(), len(numbers)]):
            run, start = self._fetch(int(starts[i]), int(ends[j - 1] - starts[i])), 0
            for k in range(i, j):
                yield numbers[k], run[start : start + sizes[k]], sums[k]
                start += sizes[k]

    def _fetch(self, start: int, count: int) -> memoryview:
        began = perf_counter()
        part = self.fetch(start, count)
        self.seconds += perf_counter() - began
        return part


def _overlaps(
    part: Part, result: np.ndarray, brick: Sequence[int], grid: Sequence[int]
) -> Iterator[tuple[int, np.ndarray, Part]]:
    """Of each brick that ``part`` needs: its number, what of ``result`` it fills, and by what of itself."""
    zs, ys, xs = (_overlaps_of_axis(axis, side) for axis, side in zip(part, brick, strict=True))
    for c in range(grid[0]):
        for z, z_of_brick, z_of_part in zs:
            for y, y_of_brick, y_of_part in ys:
                row, first = result[c, z_of_part, y_of_part], ((c * grid[1] + z) * grid[2] + y) * grid[3]
                for x, x_of_brick, x_of_part in xs:
                    yield first + x, row[:, :, x_of_part], (z_of_brick, y_of_brick, x_of_brick)


def _overlaps_of_axis(part: slice, brick: int) -> list[tuple[int, slice, slice]]:
    """Each brick, what it has of ``part``, and where that lies in ``part``."""
    overlaps = []
    for i in range(part.start // brick, -(-part.stop // brick)):
        low, high = max(i * brick, part.start), min((i + 1) * brick, part.stop)
        overlaps.append((i, slice(low - i * brick, high - i * brick), slice(low - part.start, high - part.start)))
    return overlaps


def _brick(shape: Sequence[int]) -> tuple[int, ...]:
    return (*(1,) * (len(shape) - 3), *(min(b, n) for b, n in zip(BRICK, shape[-3:], strict=True)))


def _checksum(chunk: Payload, number: int) -> int:
    return xxhash.xxh3_64_intdigest(chunk, number)  # of two bricks that change places neither is right


def _header_size(frame: bytes) -> int:
    size: int = struct.unpack_from(">i", frame, 11)[0]
    return size
