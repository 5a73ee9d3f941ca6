"""Volumes in bricks: a crop reads and decodes those that it needs, each once, and checks each by itself.

A payload is a contiguous frame of blosc2, whose chunks are the bricks in C order; then the chunks of a single value,
which a frame only marks; then a table with a row for each brick: where its chunk lies in the payload, how long it is,
and its checksum. Whoever opens the payload with blosc2 sees the frame.
"""

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import imagecodecs
import numpy as np
import xxhash

from dira_scale.pixels.arena import Allocate
from dira_scale.pixels.boxes import Part
from dira_scale.pixels.headers import Payload

# Voxels of a brick. Measured (docs/evidence/performance.md): smaller ones decode fewer voxels beyond a crop, but each
# costs a call; with LZ4HC a core cuts 3 times the crops that it does with zstd, and a dataset stays below its .nii.gz.
BRICK = (16, 32, 32)
TABLE = np.dtype([("offset", "<u8"), ("size", "<u4"), ("xxh3", "<u8")])

Fetch = Callable[[int, memoryview], None]  # fills the buffer with the bytes of the payload that begin there


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

    def cut(self, parts: Sequence[Part], new: Allocate = np.empty) -> list[np.ndarray]:
        """The voxels [C, D, H, W] of each part, in memory that ``new`` makes; a brick that several parts need is read
        and decoded once.

        Raises BrickError, which names the brick, where something is damaged.
        """
        brick, channels = _brick(self.shape)[-3:], self.shape[0] if len(self.shape) == 4 else 1
        grid = (channels, *(-(-n // b) for n, b in zip(self.shape[-3:], brick, strict=True)))
        results = [new((channels, *(axis.stop - axis.start for axis in part)), self.dtype) for part in parts]
        decoded = np.empty(brick, self.dtype)
        takers: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        for part, result in zip(parts, results, strict=True):
            for number, taken, of_brick in _overlaps(part, result, decoded, grid):
                takers.setdefault(number, []).append((taken, of_brick))
        numbers, flat = sorted(takers), decoded.reshape(-1).view(np.uint8)
        for number, chunk, checksum in self._chunks(numbers, math.prod(grid)):
            if _checksum(chunk, number) != checksum:
                raise BrickError(f"brick {number}: its checksum differs from the table's")
            try:
                done = imagecodecs.blosc2_decode(chunk, out=flat, numthreads=1)  # type: ignore[arg-type]  # any buffer
                if len(done) != len(flat):
                    raise ValueError(f"it has {len(done)} bytes instead of {len(flat)}")
            except (RuntimeError, ValueError) as error:
                raise BrickError(f"brick {number}: {error}") from error
            for taken, of_brick in takers[number]:
                taken[...] = of_brick
        return results

    def _chunks(self, numbers: Sequence[int], count: int) -> Iterator[tuple[int, memoryview, int]]:
        """Number, chunk and checksum of the bricks ``numbers``, of ``count``; neighbours are read together."""
        if not numbers:
            return
        table = self.size - count * TABLE.itemsize
        if table < 0:
            raise BrickError(f"{self.size} bytes are fewer than the table of {count} bricks has")
        first = numbers[0]
        rows = np.empty(numbers[-1] + 1 - first, TABLE)
        self._fetch(table + first * TABLE.itemsize, rows.view(np.uint8).data)
        runs: list[list[tuple[int, int, int, int]]] = []
        after = -1  # where the chunk before ends
        for number, (offset, size, checksum) in zip(numbers, rows[np.array(numbers) - first].tolist(), strict=True):
            if offset + size > table:
                raise BrickError(f"brick {number}: its row of the table is damaged")
            if offset != after:
                runs.append([])
            runs[-1].append((number, offset, size, checksum))
            after = offset + size
        spans = [(run[0][1], run[-1][1] + run[-1][2]) for run in runs]
        buffer = np.empty(max(end - start for start, end in spans), np.uint8).data
        for run, (start, end) in zip(runs, spans, strict=True):
            self._fetch(start, buffer[: end - start])
            for number, offset, size, checksum in run:
                yield number, buffer[offset - start : offset - start + size], checksum

    def _fetch(self, start: int, buffer: memoryview) -> None:
        began = perf_counter()
        self.fetch(start, buffer)
        self.seconds += perf_counter() - began


def _overlaps(
    part: Part, result: np.ndarray, decoded: np.ndarray, grid: Sequence[int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield of each brick that ``part`` needs: number, what it fills of ``result``, and what of ``decoded`` goes
    there."""
    zs, ys, xs = (_overlaps_of_axis(axis, side) for axis, side in zip(part, decoded.shape, strict=True))
    for c in range(grid[0]):
        for z, z_of_brick, z_of_part in zs:
            for y, y_of_brick, y_of_part in ys:
                row, first = result[c, z_of_part, y_of_part], ((c * grid[1] + z) * grid[2] + y) * grid[3]
                of_row = decoded[z_of_brick, y_of_brick]
                for x, x_of_brick, x_of_part in xs:
                    yield first + x, row[:, :, x_of_part], of_row[:, :, x_of_brick]


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
