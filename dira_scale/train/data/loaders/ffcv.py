"""FFCV's loader: its file format, and the decoding and resizing of its C library.

The library is called from our threads and without Python's lock, so nothing is compiled when a run begins, a damaged
image is an error rather than old pixels, and memory holds an image per thread rather than one per sample.
"""

import os
from ctypes import CDLL, c_bool, c_int64, c_uint32, c_uint64, c_void_p
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import xxhash

from dira_scale.base.errors import DatasetError, UserError
from dira_scale.base.storage.store import is_local
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.beton import JPEG, RAW, BetonError, ImageField, Reader
from dira_scale.dataset.pixels.boxes import mirrored
from dira_scale.dataset.pixels.codecs import DecodeError
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.cpu import CpuLoader
from dira_scale.train.data.requests import Request


class BetonImages:
    """The images of a split's ``.beton``, by their row in the manifest. Reading is thread-safe.

    They are read, not mapped into memory as in FFCV: there a file that is cut short ends the process.
    Raises DatasetError unless it holds exactly the samples of the manifest.
    """

    def __init__(self, dataset: ShardedDataset, split: str) -> None:
        self.dataset, self.path = dataset, dataset.root / f"{split}.beton"
        size = dataset.info.betons.get(self.path.name)
        if size is None or not is_local(self.path):
            raise DatasetError(f"{dataset.root} has no {self.path.name} on this machine's disks (a subset or a merged "
                               "dataset gets its own)", lacks="beton")  # fmt: skip
        try:
            self.file = self.path.open("rb")
            if (actual := self.path.stat().st_size) != size:
                raise BetonError(f"{actual} bytes instead of {size}")
            reader, rows = Reader(self.path), dataset.rows(split)
            names = list(reader.fields)
            if not isinstance(reader.fields.get("image"), ImageField) or "index" not in names:
                raise BetonError("no fields 'image' and 'index'")
            entries, index = (reader.records[f"f{names.index(name)}"] for name in ("image", "index"))
            height, width, size = (dataset.column(name)[rows] for name in ("height", "width", "size"))
            codes, codecs = dataset.codes("codec")
            compressed = np.array([codec == "jpg" for codec in codecs])[codes[rows]]
            stored = [index, entries["mode"], entries["height"], entries["width"]]
            if not all(map(np.array_equal, stored, [rows, np.where(compressed, JPEG, RAW), height, width])):
                raise BetonError("it holds other samples than the manifest")
            self.sizes = np.where(compressed, size, 3 * height.astype(np.int64) * width)  # bytes
            pointer = entries["pointer"].astype(np.int64)
            if ((pointer < 0) | (pointer > len(reader.content) - self.sizes)).any():
                raise BetonError("a pointer leads out of the file")
            self.entries = entries.copy()  # FFCV's metadata of each sample's image
        except (ValueError, TypeError, OSError) as error:  # BetonError, or what NumPy says of a damaged header
            raise self._wrong("not usable", error) from error
        self.first = int(rows[0])
        self.position = np.full(int(rows[-1]) - self.first + 1, -1)
        self.position[rows - self.first] = np.arange(len(rows))

    def read(self, row: int) -> tuple[np.ndarray, int, int]:
        """Return a JPEG's bytes, or pixels [H, W, 3]; height and width.

        Raises BetonError where the file ends early, or for a JPEG whose checksum is not the manifest's. (Of images
        that the tars compress otherwise, the manifest has no checksum of their pixels.)
        """
        entry = self.position[row - self.first]
        mode, width, height, pointer = self.entries[entry].item()
        payload = os.pread(self.file.fileno(), int(self.sizes[entry]), pointer)
        if len(payload) != self.sizes[entry]:
            raise BetonError("the file ends before it")
        if mode == RAW:
            return np.frombuffer(payload, np.uint8).reshape(height, width, 3), height, width
        if xxhash.xxh3_64_intdigest(payload) != self.dataset.checksums[row]:
            raise BetonError("checksum differs from the manifest's")
        return np.frombuffer(payload, np.uint8), height, width

    def damaged(self, row: int, cause: Exception) -> DatasetError:
        """Return the error that says which sample cannot be read."""
        return self._wrong(f"sample {self.dataset.cell('key', row)} cannot be read", cause)

    def _wrong(self, what: str, cause: Exception) -> DatasetError:
        return DatasetError(f"{self.path}: {what} ({cause})", lacks="beton")


class FfcvLoader(CpuLoader):
    """Batches of 8-bit 2D images from ``{split}.beton`` (see ``loaders.Loader``).

    The filter is OpenCV's INTER_AREA: where a crop shrinks in both directions, the mean of the area that a pixel
    covers, rounded; otherwise linear between two pixels in each direction. Masks are read from the tars.

    Raises UserError when FFCV is missing, ValueError for a dataset that is not 2D of 8 bits with 1 or 3 channels,
    DatasetError for one that has no ``.beton`` with the samples of its manifest.
    """

    def __init__(self, spec: LoaderSpec) -> None:
        super().__init__(spec)
        if self.samples.dimensions != 2:
            raise ValueError("ffcv reads images, and these shards hold volumes: use cpu")
        self.library = FfcvLibrary()
        if self.samples.dtype != torch.uint8 or self.samples.channels not in (1, 3):
            bits = 8 * self.samples.dtype.itemsize
            raise ValueError(f"ffcv reads images of 8 bits with 1 or 3 channels; these have up to {bits} bits and "
                             f"{self.samples.channels} channels: use cpu")  # fmt: skip
        self.reader.near = -1  # of images no tar is read
        self.files = [BetonImages(dataset, self.samples.split) for dataset in self.samples.datasets]

    def costs(self) -> str:
        return ""  # of one file a split

    def _fill_from(
        self, image: int, slots: list[np.ndarray], request: Request, i: int, views: list[int], payload: Any
    ) -> None:
        pixels = self._decode(image)
        began = perf_counter()
        for view in views:
            slot, geometry = slots[view], request.geometries[view]
            resized = self.library.resize(pixels, geometry.box[i].tolist(), slot.shape[-1])
            channels = np.moveaxis(resized, -1, 0)[: slot.shape[1]]  # grey images have three equal ones
            slot[i] = mirrored(channels, geometry.flip[i])
        self.seconds.add(transform=perf_counter() - began)

    def _decode(self, image: int) -> np.ndarray:
        """Return the stored pixels of a sample, [H, W, 3]. Raises UserError if they are damaged."""
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
                f"FFCV's library _libffcv cannot be loaded ({error}): run python -m dira_scale.doctor, which prints "
                "the command that installs FFCV (docs/how-to/install.md), or use the loader cpu"
            ) from error
        self._decode, self._resize = library.imdecode, library.resize
        self._decode.argtypes = [c_void_p, c_uint64, c_uint32, c_uint32, c_void_p, *6 * [c_uint32], c_bool, c_bool]
        self._resize.argtypes, self._resize.restype = 11 * [c_int64], None

    def decode(self, payload: np.ndarray, height: int, width: int) -> np.ndarray:
        """Return a JPEG's pixels, [H, W, 3], with libjpeg's fast DCT. Raises DecodeError when it is broken."""
        pixels = np.empty((height, width, 3), np.uint8)
        source, into = payload.ctypes.data, pixels.ctypes.data
        if self._decode(source, len(payload), height, width, into, height, width, 0, 0, 1, 1, False, False):
            raise DecodeError(f"not a JPEG of {height} x {width} pixels, or a damaged one")
        return pixels

    def resize(self, pixels: np.ndarray, box: list[int], size: int) -> np.ndarray:
        """Return the part ``box`` (y, x, h, w) of ``pixels`` [H, W, 3], resized: [size, size, 3]."""
        y, x, h, w = box
        into = np.empty((size, size, 3), np.uint8)
        unused = 0
        self._resize(unused, pixels.ctypes.data, *pixels.shape[:2], y, y + h, x, x + w, into.ctypes.data, size, size)
        return into
