"""MetaImage (``.mha``, ``.mhd`` with its ``.raw`` or ``.zraw``; https://itk.org/Wiki/ITK/MetaIO/Documentation).

ITK's own reader returns uninitialised memory for ``ElementDataFile = LIST`` with an empty list, opens any path that a
header names, and prints values of damaged headers; hence this one, which the tests compare with ITK's.
"""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from dira_scale.archive.imaging.arrays import Inflated, read_values
from dira_scale.archive.imaging.files import opened
from dira_scale.archive.imaging.rejection import GeometryError, RejectedError, rejects
from dira_scale.archive.imaging.volumes.geometry import LPS_TO_RAS, Grid
from dira_scale.archive.imaging.volumes.raw import RawVolume, data_file

MAX_HEADER = 2**16
TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip


def is_metaimage(start: bytes) -> bool:
    words = start.split(b"=")[0].strip()
    return words in (b"ObjectType", b"NDims", b"Comment", b"ObjectSubType")


def open_metaimage(file: BinaryIO, path: Path) -> RawVolume:
    """Raises RejectedError, also if the header names a data file outside its own folder."""
    with rejects("damaged MetaImage header ({})"):
        keys = _header(file)
        if keys["NDims"] != "3":
            raise RejectedError("MetaImage of another number of axes than three")
        x, y, z = (int(side) for side in keys["DimSize"].split())
        channels = int(keys.get("ElementNumberOfChannels", "1"))
        big = "true" in (keys.get("BinaryDataByteOrderMSB", "") + keys.get("ElementByteOrderMSB", "")).lower()
        dtype = np.dtype((">" if big else "<") + TYPES[keys["ElementType"]])
        compressed = keys.get("CompressedData", "False").lower() == "true"
        skipped, data = int(keys.get("HeaderSize", "0")), keys["ElementDataFile"]
        if keys.get("BinaryData", "True").lower() != "true" or min(x, y, z, channels) < 0:
            raise RejectedError("MetaImage of values in text, or of negative size")
        grid = Grid((z, y, x), _affine(keys))

    def values(source: BinaryIO) -> np.ndarray:
        if skipped > 0:
            source.seek(skipped, 1)
        elif skipped == -1:  # the values are the file's last bytes
            source.seek(-(x * y * z * channels * dtype.itemsize), 2)
        plain: BinaryIO = Inflated(source) if compressed else source  # type: ignore[assignment]
        array = read_values(plain, dtype, (*grid.shape, channels))
        return array[..., 0] if channels == 1 else np.moveaxis(array, -1, 0)

    def load() -> np.ndarray:
        if data in ("LOCAL", "Local", "local"):
            return values(file)
        with opened(data_file(path, data)) as source:
            return values(source)

    return RawVolume(grid, load)


def _header(file: BinaryIO) -> dict[str, str]:
    """Keys up to ElementDataFile, by definition the last; leaves ``file`` after that line."""
    keys: dict[str, str] = {}
    while "ElementDataFile" not in keys and file.tell() < MAX_HEADER:
        line = file.readline(MAX_HEADER)
        if not line:
            raise RejectedError("MetaImage header without ElementDataFile")
        key, _, value = line.decode("latin-1").partition("=")
        keys[key.strip()] = value.strip()
    return keys


def _affine(keys: dict[str, str]) -> np.ndarray:
    def numbers(*names: str, default: str) -> np.ndarray:
        cell = next((keys[name] for name in names if name in keys), default)
        return np.array([float(number) for number in cell.split()])

    spacing = numbers("ElementSpacing", "ElementSize", default="1 1 1")
    if spacing.shape != (3,) or not (spacing > 0).all():
        raise GeometryError("distance between voxels that is zero, negative or absurd")
    turn = numbers("TransformMatrix", "Rotation", "Orientation", default="1 0 0 0 1 0 0 0 1").reshape(3, 3)
    affine = np.eye(4)
    affine[:3, :3] = turn.T * spacing  # each row in the file is an axis direction
    affine[:3, 3] = numbers("Offset", "Position", "Origin", default="0 0 0")
    return LPS_TO_RAS @ affine
