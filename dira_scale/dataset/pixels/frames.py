"""Bricks as one array for libblosc2, which decodes a part of it in one call without the interpreter's lock.

python-blosc2 keeps that lock while it decodes; its wheels bring the C library, which is called here. What a frame has
before and after its bricks is made anew, as C-Blosc2's README_CFRAME_FORMAT.rst, README_B2ND_METALAYER.rst and
README_CHUNK_FORMAT.rst say: a stored frame's own has no checksum.
"""

import ctypes
import importlib.util
import math
import struct
import threading
from collections.abc import Sequence
from ctypes.util import find_library
from functools import cache
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from dira_scale.base.errors import UserError
from dira_scale.dataset.pixels.arena import Allocate

OVERHEAD = 32  # the most bytes that an encoded brick has more than a decoded one
HEADER, INDEX = 184, 32  # bytes of a frame's header for three axes, and of that of its index of offsets
TRAILER = bytes.fromhex("940193cd0006de0000dc0000ce00000023d800") + bytes(16)
SIZES = 16, 39  # where a header has the bytes of the frame, and of its encoded bricks
Corner = ctypes.c_int64 * 3
_LOADING = threading.Lock()


class BrickFrame:
    """Bricks of one shape, in any order, as the array of those that a part of a volume needs.

    Attributes:
        chunks: where the encoded bricks belong, ``size`` bytes.
    """

    def __init__(self, size: int, bricks: int, new: Allocate) -> None:
        """``bricks``: the most that one part has."""
        self._end = HEADER + size
        self._buffer = new((self._end + INDEX + 8 * bricks + len(TRAILER),), np.uint8)
        self.chunks = self._buffer[HEADER : self._end].data

    def decoded_sizes(self, offsets: np.ndarray) -> np.ndarray:
        """The bytes that each chunk says it decodes to; ``offsets`` int64 [n], within ``chunks``."""
        return self._buffer[offsets[:, None] + np.arange(HEADER + 4, HEADER + 8)].view("<i4")[:, 0]

    def cut(self, offsets: np.ndarray, brick: tuple[int, ...], first: Sequence[int], result: np.ndarray) -> None:
        """Fill ``result`` [D, H, W] with the voxels that begin at ``first`` (z, y, x).

        ``offsets`` int64 [nz, ny, nx], within ``chunks``: the bricks, of ``brick`` voxels each. Raises ValueError where
        libblosc2 cannot decode them.
        """
        index = _index_header(offsets.size) + offsets.tobytes()
        size = self._end + len(index) + len(TRAILER)
        frame = self._buffer[:size].data
        frame[:HEADER] = _header(offsets.shape, brick, result.dtype)
        for place, number in zip(SIZES, (size, self._end - HEADER), strict=True):
            struct.pack_into(">q", frame, place, number)
        frame[self._end :] = index + TRAILER
        low, shape = (Corner(*axes) for axes in (first, result.shape))
        high = Corner(*map(add, first, result.shape))
        with _LOADING:
            library = _library()
        array = ctypes.c_void_p()
        code = library.b2nd_from_cframe(self._buffer.ctypes.data, size, False, ctypes.byref(array))
        if code == 0:
            code = library.b2nd_get_slice_cbuffer(array, low, high, result.ctypes.data, shape, result.nbytes)
            library.b2nd_free(array)
        if code != 0:
            raise ValueError(f"libblosc2 cannot decode them (error {code})")


@cache
def _header(grid: tuple[int, ...], brick: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The header of a frame but for its ``SIZES``: ``grid`` bricks, shuffled, by LZ4HC."""
    shape = [n * side for n, side in zip(grid, brick, strict=True)]
    decoded = math.prod(brick) * dtype.itemsize
    return b"".join([
        b"\x9e\xa8b2frame\0", _int32(HEADER), b"\xcf", bytes(8), b"\xa4\x12\x00\x52\x02",
        _int64(math.prod(shape) * dtype.itemsize, 0), _int32(dtype.itemsize, decoded, decoded),
        b"\xd1\x00\x01\xd1\x00\x02\xc2\xd8\x06\x01", bytes(5), b"\x02", bytes(9),
        b"\x93\xcd\x00\x11\xde\x00\x01\xa4b2nd", _int32(107), b"\xdc\x00\x01\xc6\x00\x00\x00\x48",
        b"\x97\x00\x03\x93", _int64(*shape), 2 * (b"\x93" + _int32(*brick)), b"\x00\xdb\x00\x00\x00\x03",
        dtype.str.encode(),
    ])  # fmt: skip


def _index_header(bricks: int) -> bytes:
    """The header of the offsets, a chunk that is not encoded."""
    sizes = 8 * bricks, 8 * bricks, INDEX + 8 * bricks
    return struct.pack("<4B3i", 5, 1, 7, 8, *sizes) + bytes.fromhex("00000000000001050000000000000000")


def _int32(*values: int) -> bytes:
    return b"".join(b"\xd2" + struct.pack(">i", value) for value in values)


def _int64(*values: int) -> bytes:
    return b"".join(b"\xd3" + struct.pack(">q", value) for value in values)


@cache
def _library() -> Any:
    """libblosc2 of python-blosc2's wheel, or the system's. Raises UserError without a usable one."""
    spec = importlib.util.find_spec("blosc2")
    assert spec is not None and spec.origin is not None
    files = sorted((Path(spec.origin).parent / "lib").glob("libblosc2.*"))
    name = next((str(file) for file in files if file.suffix in (".so", ".dylib")), None) or find_library("blosc2")
    advice = "volumes are decoded by blosc2's C library: install blosc2's wheel, or libblosc2"
    if name is None:
        raise UserError(f"{Path(spec.origin).parent} has no lib/libblosc2, nor has the system; {advice}")
    pointer = ctypes.c_void_p
    try:
        library = ctypes.CDLL(name)
        library.b2nd_from_cframe.argtypes = [pointer, ctypes.c_int64, ctypes.c_bool, pointer]
        library.b2nd_get_slice_cbuffer.argtypes = [pointer, pointer, pointer, pointer, pointer, ctypes.c_int64]
        library.b2nd_free.argtypes = [pointer]
    except (OSError, AttributeError) as error:
        raise UserError(f"{name} cannot be used ({error}); {advice}") from error
    library.blosc2_init()
    return library
