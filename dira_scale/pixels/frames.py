"""Bricks as one array for libblosc2, which decodes a part of it in one call without the interpreter's lock.

python-blosc2 keeps that lock while it decodes; its wheels bring the C library, which is called here. What a frame has
before and after its bricks is made anew, by blosc2: a stored frame's own has no checksum.
"""

import ctypes
import importlib.util
import math
import struct
from collections.abc import Sequence
from ctypes.util import find_library
from functools import cache
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from dira_scale.errors import UserError
from dira_scale.pixels.arena import Allocate

# Places in a frame's header (C-Blosc2's README_CFRAME_FORMAT.rst), and in a chunk's (README_CHUNK_FORMAT.rst).
HEADER_SIZE, FRAME_SIZE, CHUNKS_SIZE = 11, 16, 39
DECODED_SIZE, CHUNK_SIZE, CHUNK_HEADER = 4, 12, 32
BEFORE = 256  # room for a header, which has 184 bytes
Corner = ctypes.c_int64 * 3


class Frame:
    """Bricks of one shape, in any order, as the array of those that a part of a volume needs.

    Attributes:
        chunks: where the encoded bricks belong, ``size`` bytes.
    """

    def __init__(self, size: int, bricks: int, new: Allocate) -> None:
        """``bricks``: the most that one part has."""
        self._end = BEFORE + size
        self._buffer = new((self._end + CHUNK_HEADER + 8 * bricks + BEFORE,), np.uint8)
        self.chunks = self._buffer[BEFORE : self._end].data

    def decoded_sizes(self, offsets: np.ndarray) -> np.ndarray:
        """The bytes that each chunk says it decodes to; ``offsets`` int64 [n], within ``chunks``."""
        places = offsets[:, None] + np.arange(BEFORE + DECODED_SIZE, BEFORE + DECODED_SIZE + 4)
        return self._buffer[places].view("<i4")[:, 0]

    def cut(self, offsets: np.ndarray, brick: tuple[int, ...], first: Sequence[int], result: np.ndarray) -> None:
        """Fill ``result`` [D, H, W] with the voxels that begin at ``first`` (z, y, x).

        ``offsets`` int64 [nz, ny, nx], within ``chunks``: the bricks, of ``brick`` voxels each. Raises ValueError where
        libblosc2 cannot decode them.
        """
        header, index, trailer = _surroundings(offsets.shape, brick, result.dtype.str)
        buffer, start, end = self._buffer, BEFORE - len(header), self._end
        size = len(header) + end - BEFORE + len(index) + offsets.nbytes + len(trailer)
        view = buffer[start : start + size].data
        view[: len(header)] = header
        struct.pack_into(">q", view, FRAME_SIZE, size)
        struct.pack_into(">q", view, CHUNKS_SIZE, end - BEFORE)
        after = end + len(index)
        buffer[end:after] = np.frombuffer(index, np.uint8)
        buffer[after : after + offsets.nbytes] = offsets.reshape(-1).view(np.uint8)
        view[size - len(trailer) :] = trailer
        low, shape = (Corner(*axes) for axes in (first, result.shape))
        high = Corner(*map(add, first, result.shape))
        library, array = _library(), ctypes.c_void_p()
        code = library.b2nd_from_cframe(buffer.ctypes.data + start, size, False, ctypes.byref(array))
        if code == 0:
            code = library.b2nd_get_slice_cbuffer(array, low, high, result.ctypes.data, shape, result.nbytes)
            library.b2nd_free(array)
        if code != 0:
            raise ValueError(f"libblosc2 cannot decode them (error {code})")


@cache
def _surroundings(grid: tuple[int, ...], brick: tuple[int, ...], dtype: str) -> tuple[bytes, bytes, bytes]:
    """Header of a frame of ``grid`` bricks, the header of its index of offsets, and its trailer."""
    import blosc2  # images do not need it

    shape = [n * side for n, side in zip(grid, brick, strict=True)]
    frame: bytes = blosc2.zeros(shape, np.dtype(dtype), chunks=brick, blocks=brick).to_cframe()
    (header,) = struct.unpack_from(">i", frame, HEADER_SIZE)
    (chunks,) = struct.unpack_from(">q", frame, CHUNKS_SIZE)
    (index,) = struct.unpack_from("<i", frame, header + chunks + CHUNK_SIZE)
    plain = blosc2.compress2(np.zeros(math.prod(grid), np.int64), typesize=8, clevel=0, nthreads=1)
    return frame[:header], plain[:CHUNK_HEADER], frame[header + chunks + index :]


@cache
def _library() -> Any:
    """libblosc2 of python-blosc2's wheel, or the system's."""
    spec = importlib.util.find_spec("blosc2")
    assert spec is not None and spec.origin is not None
    files = sorted((Path(spec.origin).parent / "lib").glob("libblosc2.*"))
    name = next((str(file) for file in files if file.suffix in (".so", ".dylib")), None) or find_library("blosc2")
    if name is None:
        raise UserError("blosc2 has no C library beside it, which decodes volumes: install its wheel, or libblosc2")
    library, pointer = ctypes.CDLL(name), ctypes.c_void_p
    library.b2nd_from_cframe.argtypes = [pointer, ctypes.c_int64, ctypes.c_bool, pointer]
    library.b2nd_get_slice_cbuffer.argtypes = [pointer, pointer, pointer, pointer, pointer, ctypes.c_int64]
    library.b2nd_free.argtypes = [pointer]
    library.blosc2_init()
    return library
