"""FFCV's loader: its file format, and the decoding and resizing of its C library.

The library is called from our threads and without Python's lock, so nothing is compiled when a run begins, a damaged
image is an error rather than old pixels, and memory holds an image per thread rather than one per sample.
"""

from ctypes import CDLL, c_bool, c_int64, c_uint32, c_uint64, c_void_p
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from dira_scale.data.beton import BetonError
from dira_scale.data.beton_images import BetonImages
from dira_scale.data.loaders.cpu import CpuLoader
from dira_scale.data.requests import Request
from dira_scale.errors import UserError
from dira_scale.pixels.boxes import mirrored
from dira_scale.pixels.codecs import DecodeError


class FfcvLoader(CpuLoader):
    """Batches of 8-bit 2D images from ``{split}.beton`` (see ``loaders.Loader``).

    The filter is OpenCV's INTER_AREA: where a crop shrinks in both directions, the mean of the area that a pixel
    covers, rounded; otherwise linear between two pixels in each direction. Masks are read from the tars.

    Raises UserError when FFCV is missing, or a dataset is not 2D of 8 bits with 1 or 3 channels, or has no ``.beton``
    with the samples of its manifest.
    """

    def _prepare(self) -> None:
        if self.samples.dimensions != 2:
            raise UserError("data.loader=ffcv reads images, and these shards hold volumes: use data.loader=cpu")
        self.library = FfcvLibrary()
        if self.samples.dtype != torch.uint8 or self.samples.channels not in (1, 3):
            raise UserError(
                f"data.loader=ffcv reads images of 8 bits with 1 or 3 channels; these have up to "
                f"{8 * self.samples.dtype.itemsize} bits and {self.samples.channels} channels: use data.loader=cpu"
            )
        self.files = [BetonImages(dataset, self.samples.split) for dataset in self.samples.datasets]

    def _fill_from(self, image: int, slots: list[np.ndarray], request: Request, i: int, views: list[int]) -> None:
        pixels = self._decode(image)
        began = perf_counter()
        for view in views:
            slot, geometry = slots[view], request.geometries[view]
            resized = self.library.resize(pixels, geometry.box[i].tolist(), slot.shape[-1])
            channels = np.moveaxis(resized, -1, 0)[: slot.shape[1]]  # grey images have three equal ones
            slot[i] = mirrored(channels, geometry.flip[i])
        self.seconds.add(transform=perf_counter() - began)

    def _decode(self, image: int) -> np.ndarray:
        """The stored pixels of a sample, [H, W, 3]. Raises UserError if they are damaged."""
        (dataset,), (row,) = self.samples.locate(np.array([image]))
        began = perf_counter()
        try:
            payload, height, width = self.files[dataset].read(row)
            read = perf_counter()
            pixels = payload if payload.ndim == 3 else self.library.decode(payload, height, width)
        except (BetonError, DecodeError, OSError) as error:
            raise self.files[dataset].damaged(row, error) from error
        self.seconds.add(read=read - began, decode=perf_counter() - read)
        return pixels


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
