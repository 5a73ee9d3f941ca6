"""NumPy's own files, ``.npy`` and ``.npz``, read as plain data: numbers, never pickled objects, within a size limit."""

import io
import math
import re
import zipfile
import zlib
from gzip import GzipFile
from typing import BinaryIO, NamedTuple

import numpy as np

from dira_scale.archive.imaging.rejection import RejectedError, rejects

NPY, ZIP = b"\x93NUMPY", b"PK\x03\x04"
MAX_BYTES = 2**32  # per array: the largest volume, in int16
MAX_REST = 2**16  # bytes after the values of a compressed file
# NumPy's own header reader uses `ast`, which can raise SystemError on CPython 3.11 when a garbage collection lets
# another thread enter it (python/cpython#106905).
HEADER = re.compile(
    r"\{'descr': '(?P<type>[<>|=][biuf][1248])', 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>[\d, ]*)\),? *\} *\n"
)


class ArrayFile(NamedTuple):
    """A ``.npy`` whose header has been read; ``file`` is positioned at the values."""

    file: BinaryIO
    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool

    def values(self) -> np.ndarray:
        """The array, in its own byte order. Raises RejectedError when the file ends early."""
        return read_values(self.file, self.dtype, self.shape, "F" if self.fortran else "C")


def is_numpy(file: BinaryIO) -> bool:
    """Return whether the file is a ``.npy`` or ``.npz``; rewinds ``file``."""
    file.seek(0)
    start = file.read(len(NPY))
    file.seek(0)
    return start.startswith((NPY, ZIP))


def open_array(file: BinaryIO) -> ArrayFile:
    """Read the header of a ``.npy``, or of the only array in an ``.npz``. Raises RejectedError."""
    start = file.read(len(NPY))
    file.seek(0)
    if start.startswith(ZIP):
        with rejects("damaged or cut short ({} in .npz decoding)"):
            archive = zipfile.ZipFile(file)
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            if len(names) != 1:
                raise RejectedError("an .npz must hold exactly one array to be an image")
            file = archive.open(names[0])  # type: ignore[assignment]
            start = file.read(len(NPY))
    else:
        file.read(len(NPY))
    with rejects("damaged or cut short ({} in .npy decoding)"):
        major, _ = file.read(2)
        if start != NPY or major not in (1, 2, 3):
            raise RejectedError("not a NumPy file")
        length = int.from_bytes(file.read(2 if major == 1 else 4), "little")
        text = file.read(min(length, 2**16)).decode("latin-1")
        match = HEADER.fullmatch(text)
        if match is None:
            raise RejectedError("a NumPy file of values other than integers or floats")
        shape = tuple(int(side) for side in match["shape"].replace(" ", "").split(",") if side)
        return ArrayFile(file, np.dtype(match["type"]), shape, match["fortran"] == "True")


def read_values(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...], order: str = "C") -> np.ndarray:
    """Read values from the current position of ``file``; native byte order.

    Memory pages are touched only as bytes arrive, so a false header costs none. Raises RejectedError.
    """
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_BYTES:
        raise RejectedError(f"more than {MAX_BYTES} bytes of values")
    flat = np.empty(size, np.uint8)
    view, filled = flat.data, 0
    with rejects("damaged or cut short ({} while decompressing)"):
        while filled < size:
            count = file.readinto(view[filled : filled + 2**24])  # type: ignore[attr-defined]
            if not count:
                raise RejectedError("the file ends before its values do")
            filled += count
        if isinstance(file, GzipFile | zipfile.ZipExtFile | Inflated):
            # At its end a compressed stream verifies its checksum. Damage can also lengthen it, and corrupt values
            # on the way.
            rest = MAX_REST
            while part := file.read(rest + 1):
                rest -= len(part)
                if rest < 0:
                    raise RejectedError("compressed data continue after the values")
    values = flat.view(dtype)
    if not dtype.isnative:
        values = values.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return values.reshape(shape, order=order)  # type: ignore[call-overload]


class Inflated(io.RawIOBase):
    """The content of a zlib or gzip stream, decompressed as it is read."""

    def __init__(self, file: BinaryIO):
        self._file, self._stream = file, zlib.decompressobj(wbits=47)  # either header

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._stream.eof:
            held = self._stream.unconsumed_tail or self._file.read(2**20)
            if not held:
                raise EOFError("the stream has no end")
            if part := self._stream.decompress(held, len(buffer)):
                buffer[: len(part)] = part
                return len(part)
        return 0
