"""Chunks of blosc2, decoded by a context that is kept from one to the next.

``imagecodecs.blosc2_decode`` makes a context for each chunk, and checks its arguments, which takes a fifth of the time
of a chunk of 32 KB. This calls the C library that it comes with.
"""

import ctypes
from importlib.util import find_spec

import numpy as np


class _Parameters(ctypes.Structure):
    """``blosc2_dparams``: one thread, nothing else set."""

    _fields_ = (("nthreads", ctypes.c_int), ("others", ctypes.c_byte * 60))


def _library() -> ctypes.CDLL:
    spec = find_spec("imagecodecs._blosc2")
    library = ctypes.CDLL(spec.origin if spec else None)  # its symbols, and those of what it is linked to
    library.blosc2_create_dctx.argtypes = [_Parameters]
    library.blosc2_create_dctx.restype = ctypes.c_void_p
    pointer, count = ctypes.c_void_p, ctypes.c_int32
    library.blosc2_decompress_ctx.argtypes = [pointer, pointer, count, pointer, count]
    library.blosc2_free_ctx.argtypes = [pointer]
    library.blosc2_init()
    return library


_LIBRARY = _library()


class Decoder:
    """Decodes chunks into ``out``, uint8 [n], one after another; for one thread at a time. The interpreter's lock is
    released, and no threads are started."""

    def __init__(self, out: np.ndarray) -> None:
        self.out, self._address, self._size = out, out.ctypes.data, len(out)
        self._context = _LIBRARY.blosc2_create_dctx(_Parameters(1))
        self._decompress = _LIBRARY.blosc2_decompress_ctx

    def __call__(self, chunk: memoryview | bytearray) -> None:
        """Fill ``out``. Raises ValueError where the chunk is damaged, or has another number of bytes."""
        start = ctypes.addressof(ctypes.c_char.from_buffer(chunk))
        done = self._decompress(self._context, start, len(chunk), self._address, self._size)
        if done != self._size:
            raise ValueError(f"blosc2's error {done}" if done < 0 else f"it has {done} bytes instead of {self._size}")

    def __del__(self) -> None:
        _LIBRARY.blosc2_free_ctx(self._context)
