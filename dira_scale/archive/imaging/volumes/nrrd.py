"""NRRD (``.nrrd``, ``.nhdr`` with its file of values; http://teem.sourceforge.net/nrrd/format.html)."""

import gzip
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dira_scale.archive.imaging.arrays import read_values
from dira_scale.archive.imaging.files import opened
from dira_scale.archive.imaging.rejection import GeometryError, RejectedError, rejects
from dira_scale.archive.imaging.volumes.geometry import LPS_TO_RAS, Grid
from dira_scale.archive.imaging.volumes.raw import RawVolume, data_file

MAX_HEADER, MAX_SKIPPED = 2**16, 2**24
TYPES = {
    "i1": "signed char, int8, int8_t", "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t", "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float", "f8": "double",
}  # fmt: skip
CODES = {name: code for code, names in TYPES.items() for name in names.split(", ")}
# To RAS. A file without a space is read as LPS, as ITK does.
SPACES = {
    "right-anterior-superior": np.eye(4), "ras": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1, 1, 1]), "las": np.diag([-1.0, 1, 1, 1]),
    "left-posterior-superior": LPS_TO_RAS, "lps": LPS_TO_RAS, "": LPS_TO_RAS,
}  # fmt: skip


def open_nrrd(file: BinaryIO, path: Path) -> RawVolume:
    """Raises RejectedError. With four axes, the one without a direction in space holds the channels."""
    with rejects("damaged NRRD header ({})"):
        keys = _header(file)
        sizes = [int(side) for side in keys["sizes"].split()]
        order = ">" if keys.get("endian", "little").strip() == "big" else "<"
        dtype = np.dtype(order + CODES[keys["type"]])
        encoding = keys["encoding"].lower()
        if encoding not in ("raw", "gzip", "gz"):
            raise RejectedError("NRRD in another encoding than raw or gzip")
        skipped = int(keys.get("byte skip", "0"))
        if int(keys.get("line skip", "0")) or skipped < 0 or min(sizes) < 0:
            raise RejectedError("NRRD with lines to skip, or of negative size")
        directions, spatial = _directions(keys, len(sizes))
        if len(spatial) != 3 or len(sizes) > 4:
            raise RejectedError("NRRD of another number of axes than three in space")
        affine = np.eye(4)
        affine[:3, :3] = directions
        affine[:3, 3] = _vector(keys["space origin"]) if "space origin" in keys else 0
        x, y, z = (sizes[axis] for axis in spatial)
        grid = Grid((z, y, x), SPACES[keys.get("space", "").lower()] @ affine)

    def values(source: BinaryIO) -> np.ndarray:
        plain: BinaryIO = gzip.GzipFile(fileobj=source) if encoding != "raw" else source  # type: ignore[assignment]
        with rejects("damaged or cut short ({} in NRRD decoding)"):
            if skipped > MAX_SKIPPED or len(plain.read(skipped)) < skipped:  # do not inflate a bomb
                raise RejectedError("the file ends before its values do")
        array = read_values(plain, dtype, tuple(reversed(sizes)))
        if len(sizes) == 3:
            return array
        other = ({0, 1, 2, 3} - set(spatial)).pop()  # counted from the fastest axis, the array's last
        return np.moveaxis(array, 3 - other, 0)

    def load() -> np.ndarray:
        data = keys.get("data file", keys.get("datafile"))
        if data is None:
            return values(file)
        with opened(data_file(path, data)) as source:
            return values(source)

    return RawVolume(grid, load)


def _header(file: BinaryIO) -> dict[str, str]:
    """Fields up to the empty line (a detached header may lack it); leaves ``file`` after it."""
    keys: dict[str, str] = {}
    file.readline(MAX_HEADER)
    while file.tell() < MAX_HEADER:
        line = file.readline(MAX_HEADER).decode("latin-1").rstrip("\r\n")
        if not line:
            return keys
        key, separator, value = line.partition(": ")
        if separator and not line.startswith("#"):
            keys[key.strip().lower()] = value.strip()
    raise RejectedError("NRRD header without an end")


def _directions(keys: dict[str, str], count: int) -> tuple[np.ndarray, list[int]]:
    """The spatial axes' direction columns in mm, and which axes they are."""
    if "space directions" in keys:
        cells = re.findall(r"\([^)]*\)|none", keys["space directions"])
        spatial = [axis for axis, cell in enumerate(cells) if cell != "none"]
        return np.array([_vector(cells[axis]) for axis in spatial]).T, spatial
    spacing = [float(number) for number in keys.get("spacings", " ".join(["1"] * count)).split()]
    spatial = [axis for axis, step in enumerate(spacing) if step == step]
    if any(spacing[axis] <= 0 for axis in spatial):
        raise GeometryError("distance between voxels that is zero, negative or absurd")
    return np.diag([spacing[axis] for axis in spatial]), spatial


def _vector(cell: str) -> list[float]:
    return [float(number) for number in cell.strip("() ").split(",")]
