"""Volumes in bricks: crops of one volume read those that they need, each once, and check each by itself.

A payload is a contiguous frame of blosc2, whose chunks are the bricks in C order; then the chunks of a single value,
which a frame only marks; then a table with a row for each brick: where its chunk lies in the payload, how long it is,
and its checksum. Whoever opens the payload with blosc2 sees the frame.
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter

import numpy as np
import xxhash

from dira_scale.dataset.pixels.arena import Allocate
from dira_scale.dataset.pixels.boxes import PixelSlices
from dira_scale.dataset.pixels.frames import OVERHEAD, BrickFrame
from dira_scale.dataset.pixels.headers import Payload

# Voxels of a brick. Measured (docs/evidence/performance.md): smaller ones decode fewer voxels beyond a crop, but each
# costs a row and a checksum; with LZ4HC a core cuts 3 times the crops that it does with zstd, and a dataset stays below
# its .nii.gz.
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
    size: int = struct.unpack_from(">i", frame, 11)[0]
    at, beyond, values = size, bytearray(), dict[bytes, int]()
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

    def cut(self, parts: Sequence[PixelSlices], new: Allocate = np.empty) -> list[np.ndarray]:
        """The voxels [C, D, H, W] of each part, in memory that ``new`` makes; a brick that several parts need is read
        once.

        Raises BrickError, which names the brick whose bytes, or row of the table, are damaged.
        """
        brick, channels = _brick(self.shape)[-3:], self.shape[0] if len(self.shape) == 4 else 1
        grid = (channels, *(-(-n // b) for n, b in zip(self.shape[-3:], brick, strict=True)))
        owned = []  # the bricks that each part needs, int64 [C, nz, ny, nx]
        for part in parts:
            z, y, x = (np.arange(a.start // side, -(-a.stop // side)) for a, side in zip(part, brick, strict=True))
            planes = np.arange(channels)[:, None] * grid[1] + z
            owned.append((planes[..., None, None] * grid[2] + y[:, None]) * grid[3] + x)
        numbers = owned[0].reshape(-1) if len(owned) == 1 else np.unique(np.concatenate([*map(np.ravel, owned)]))
        size = math.prod(brick) * self.dtype.itemsize
        frame, offsets = self._read(numbers, math.prod(grid), size, max(own[0].size for own in owned), new)
        decoded = frame.decoded_sizes(offsets)
        if (bad := (decoded != size).nonzero()[0]).size:
            raise BrickError(f"brick {numbers[bad[0]]}: it has {decoded[bad[0]]} bytes instead of {size}")
        results = []
        for part, own in zip(parts, owned, strict=True):
            result = new((channels, *(axis.stop - axis.start for axis in part)), self.dtype)
            first = [axis.start % side for axis, side in zip(part, brick, strict=True)]
            for channel, needed in zip(result, offsets[np.searchsorted(numbers, own)], strict=True):
                try:
                    frame.cut(needed, brick, first, channel)
                except ValueError as error:
                    raise BrickError(f"bricks {own.min()} to {own.max()}: {error}") from error
            results.append(result)
        return results

    def _read(
        self, numbers: np.ndarray, count: int, decoded: int, most: int, new: Allocate
    ) -> tuple[BrickFrame, np.ndarray]:
        """The bricks ``numbers`` of ``count``, checked, and where each begins; neighbours are read together.

        ``decoded``: bytes of each when decoded. ``most``: how many one part has.
        """
        table, first = self.size - count * TABLE.itemsize, int(numbers[0])
        if table < 0:
            raise BrickError(f"{self.size} bytes are fewer than the table of {count} bricks has")
        rows = np.empty(int(numbers[-1]) + 1 - first, TABLE)
        began = perf_counter()
        self.fetch(table + first * TABLE.itemsize, rows.view(np.uint8).data)
        self.seconds += perf_counter() - began
        rows = rows[numbers - first]
        begin, sizes = rows["offset"], rows["size"]
        if (bad := ((sizes > decoded + OVERHEAD) | (begin > table) | (sizes > table - begin)).nonzero()[0]).size:
            raise BrickError(f"brick {numbers[bad[0]]}: its row of the table is damaged")
        begin, sizes = begin.astype(np.int64), sizes.astype(np.int64)
        end = begin + sizes
        places = np.cumsum(sizes) - sizes
        frame = BrickFrame(int(sizes.sum()), most, new)
        runs = [0, *(np.flatnonzero(begin[1:] != end[:-1]) + 1).tolist(), len(numbers)]
        began = perf_counter()
        for i, j in pairwise(runs):
            self.fetch(int(begin[i]), frame.chunks[places[i] : places[j - 1] + sizes[j - 1]])
        self.seconds += perf_counter() - began
        checks = zip(numbers.tolist(), places.tolist(), sizes.tolist(), rows["xxh3"].tolist(), strict=True)
        for number, place, size, checksum in checks:
            if _checksum(frame.chunks[place : place + size], number) != checksum:
                raise BrickError(f"brick {number}: its checksum differs from the table's")
        return frame, places


def _brick(shape: Sequence[int]) -> tuple[int, ...]:
    return (*(1,) * (len(shape) - 3), *(min(b, n) for b, n in zip(BRICK, shape[-3:], strict=True)))


def _checksum(chunk: Payload, number: int) -> int:
    return xxhash.xxh3_64_intdigest(chunk, number)  # of two bricks that change places neither is right
