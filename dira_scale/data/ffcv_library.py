"""FFCV's compiled code: JPEGs to pixels, and crops resized."""

from ctypes import CDLL, c_bool, c_int64, c_uint32, c_uint64, c_void_p
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from dira_scale.errors import UserError
from dira_scale.pixels.codecs import DecodeError


class FfcvLibrary:
    """Two functions of FFCV's C library (libffcv.cpp of libffcv/ffcv 1.0.2).

    It is loaded without FFCV's package, whose import takes seconds, compiles and sets torch to one thread.
    Raises UserError when it is missing.
    """

    def __init__(self) -> None:
        package = find_spec("ffcv")
        folders = (package and package.submodule_search_locations) or []
        try:
            (file,) = [file for folder in folders for file in Path(folder).glob("_libffcv*")]
            library = CDLL(str(file))
        except (ValueError, OSError) as error:
            raise UserError(
                f"data.loader=ffcv: FFCV's library _libffcv cannot be loaded ({error}): run python -m "
                "dira_scale.doctor, which prints the command that installs FFCV (docs/how-to/install.md), or use "
                "data.loader=cpu"
            ) from error
        self._decode, self._resize = library.imdecode, library.resize
        self._decode.argtypes = [c_void_p, c_uint64, c_uint32, c_uint32, c_void_p, *6 * [c_uint32], c_bool, c_bool]
        self._resize.argtypes, self._resize.restype = 11 * [c_int64], None

    def decode(self, payload: np.ndarray, height: int, width: int) -> np.ndarray:
        """A JPEG's pixels, [H, W, 3], with libjpeg's fast DCT. Raises DecodeError when it is broken."""
        pixels = np.empty((height, width, 3), np.uint8)
        source, into = payload.ctypes.data, pixels.ctypes.data
        if self._decode(source, len(payload), height, width, into, height, width, 0, 0, 1, 1, False, False):
            raise DecodeError(f"not a JPEG of {height} x {width} pixels, or a damaged one")
        return pixels

    def resize(self, pixels: np.ndarray, box: list[int], size: int) -> np.ndarray:
        """The part ``box`` (y, x, h, w) of ``pixels`` [H, W, 3], resized: [size, size, 3]."""
        y, x, h, w = box
        into = np.empty((size, size, 3), np.uint8)
        unused = 0
        self._resize(unused, pixels.ctypes.data, *pixels.shape[:2], y, y + h, x, x + w, into.ctypes.data, size, size)
        return into
