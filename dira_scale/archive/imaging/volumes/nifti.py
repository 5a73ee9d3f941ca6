"""NIfTI-1 and NIfTI-2, plain or gzipped: headers by nibabel, values read only as far as the header says."""

import gzip
import io
import math
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
from etils.epy import lazy_imports

from dira_scale.archive.imaging.arrays import read_values
from dira_scale.archive.imaging.rejection import GeometryError, RejectedError, rejects
from dira_scale.archive.imaging.volumes.geometry import Grid
from dira_scale.archive.imaging.volumes.raw import RawVolume
from dira_scale.archive.imaging.volumes.values import rescale
from dira_scale.dataset.pixels.limits import MAX_CHANNELS

with lazy_imports():
    import nibabel

if TYPE_CHECKING:  # imported where a header is read: images need no nibabel
    from nibabel.nifti1 import Nifti1Header

GZIP = b"\x1f\x8b"
MILLIMETRES = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
KINDS = {348: "Nifti1Header", 540: "Nifti2Header"}  # nibabel's, by the header size, its first field


def is_nifti(start: bytes) -> bool:
    """Return whether ``start`` (decompressed, at least 16 bytes) begins a NIfTI header."""
    return any(int.from_bytes(start[:4], order) in KINDS for order in ORDERS)


def read_header(file: BinaryIO) -> tuple[BinaryIO, "Nifti1Header"]:
    """The decompressed stream, behind its header. Raises RejectedError."""
    start = file.read(2)
    file.seek(0)
    if start == GZIP:
        file = gzip.GzipFile(fileobj=file)  # type: ignore[assignment]
    with rejects("damaged or missing NIfTI header ({})"):
        size = file.read(4)
        name = next(KINDS[n] for order in ORDERS if (n := int.from_bytes(size, order)) in KINDS)
        kind = getattr(nibabel, name)
        block = size + file.read(kind.sizeof_hdr - 4)
        header = kind.from_fileobj(io.BytesIO(block), check=False)
        magic = bytes(header["magic"])
        if magic[:3] in (b"ni1", b"ni2"):
            raise RejectedError("NIfTI in two files (.hdr and .img): save it as one .nii")
        if magic[:3] not in (b"n+1", b"n+2"):
            raise RejectedError("not a NIfTI file")
    return file, header


def open_nifti(file: BinaryIO) -> RawVolume:
    """Raises RejectedError. Channels are the fourth axis (or the fifth, NIfTI's place for vectors)."""
    file, header = read_header(file)
    with rejects("damaged or missing NIfTI header ({})"):
        dtype, sides = header.get_data_dtype(), [int(side) for side in header.get_data_shape()]
        slope, offset = header.get_slope_inter()
        scaling = (1.0, 0.0) if slope is None else (float(slope), float(offset))
        skipped = int(header["vox_offset"]) - header.sizeof_hdr
        affine = _affine(header)
    while len(sides) > 3 and sides[-1] == 1:
        sides.pop()
    if len(sides) == 5 and sides[3] == 1:
        del sides[3]
    if len(sides) not in (3, 4):
        few = len(sides) < 3
        raise RejectedError("an image of fewer than three axes" if few else "a series in time of several channels")
    *spatial, channels = [*sides, 1][:4]
    if not 1 <= channels <= MAX_CHANNELS:
        raise RejectedError(f"more than {MAX_CHANNELS} channels: a series in time is not one volume")
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise RejectedError("values that are colours, complex or not numbers")
    grid = Grid(tuple(reversed(spatial)), affine)  # type: ignore[arg-type]

    def load() -> np.ndarray:
        with rejects("damaged or cut short ({} in NIfTI decoding)"):
            if skipped < 0 or skipped > 2**24 or len(file.read(skipped)) < skipped:
                raise RejectedError("the file ends before its values do")
        values = read_values(file, dtype, (channels, *grid.shape))
        return rescale(values[0] if channels == 1 else values, *scaling)

    return RawVolume(grid, load)


def _affine(header: "Nifti1Header") -> np.ndarray:
    """The sform if set, else the qform, else the spacing alone, in millimetres."""
    if not (np.asarray(header["pixdim"][1:4]) > 0).all():
        raise GeometryError("distance between voxels that is zero, negative or absurd")
    unit = MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
    affine = np.asarray(header.get_best_affine(), np.float64)
    if not math.isfinite(float(np.abs(affine).max())):
        raise GeometryError("orientation or position is not a number")
    return np.diag([unit, unit, unit, 1.0]) @ affine
