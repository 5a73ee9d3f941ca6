"""Read one file as a ``Volume``, and its mask."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image

from dira_scale.archive.imaging.arrays import is_numpy, open_array
from dira_scale.archive.imaging.dicom.header import is_dicom
from dira_scale.archive.imaging.files import opened
from dira_scale.archive.imaging.rejection import RejectedError, rejects
from dira_scale.archive.imaging.settings import ReadSettings
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes.geometry import LPS_TO_RAS, Grid, turn
from dira_scale.archive.imaging.volumes.metaimage import is_metaimage, open_metaimage
from dira_scale.archive.imaging.volumes.nifti import GZIP, is_nifti, open_nifti
from dira_scale.archive.imaging.volumes.nrrd import open_nrrd
from dira_scale.archive.imaging.volumes.raw import RawVolume
from dira_scale.archive.imaging.volumes.regrid import stack_of
from dira_scale.archive.imaging.volumes.series import Series
from dira_scale.archive.imaging.volumes.structure_mask import structure_mask
from dira_scale.archive.imaging.volumes.values import to_volume

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_RATIO = 4096  # pixels per byte: more than any lossless TIFF codec reaches (LZW: 2,700 on zeros)
MODES = ("L", "I;16", "I;16B", "I", "F")  # grey of 8, 16 and 32 bits, float


def open_tiff(file: BinaryIO) -> RawVolume:
    """All pages, which must agree in size and mode; 1 mm voxels, as TIFF's resolution is for printing.

    Raises RejectedError.
    """
    PIL.Image.MAX_IMAGE_PIXELS = None  # we apply our own limit to every format
    with rejects("damaged TIFF ({})"):
        picture = PIL.Image.open(file, formats=("TIFF",))
        mode, size, pages = picture.mode, picture.size, getattr(picture, "n_frames", 1)
    if mode not in MODES:
        raise RejectedError("TIFF that is not grey")
    if pages * size[0] * size[1] > MAX_RATIO * file.seek(0, io.SEEK_END):
        raise RejectedError("TIFF that claims more pixels than its length can hold")
    grid = Grid((pages, size[1], size[0]), LPS_TO_RAS.copy())

    def load() -> np.ndarray:
        values = None
        with rejects("damaged or cut short ({} in TIFF decoding)"):
            for page in range(pages):
                picture.seek(page)
                if (picture.mode, picture.size) != (mode, size):
                    raise RejectedError("TIFF of pages that differ in size or kind")
                plane = np.asarray(picture)
                if values is None:
                    values = np.empty(grid.shape, plane.dtype)
                values[page] = plane
        assert values is not None
        return values

    return RawVolume(grid, load)


def read_volume(path: Path, settings: ReadSettings) -> Volume:
    """Decode a volume, its axes in DICOM's axial order.

    Raises:
        RejectedError: the file cannot become a sample (GeometryError: because of its geometry).
        OSError, MemoryError: it could not be read now; not the file's fault.
    """
    with opened(path) as file:
        if not is_dicom(file):
            raw = _raw(file, path)
            return to_volume(raw.grid, raw.load, settings)
    return Series.of(path.parent, [path.name]).read(settings)


def read_channels(path: Path, settings: ReadSettings) -> list[Volume]:
    """Each channel of a file, with a range of its own. Raises as ``read_volume``."""
    with opened(path) as file:
        raw = _raw(file, path)
        raw.grid.check()
        values = raw.load()
    return [to_volume(raw.grid, lambda c=c: c, settings) for c in (values if values.ndim == 4 else values[None])]  # type: ignore[misc]


def read_volume_mask(path: Path, volume: Volume, patterns: Sequence[str] = ()) -> np.ndarray:
    """The mask as uint8 [Z, Y, X] on the volume's grid; of a SEG or RTSTRUCT by ``patterns`` of its structures' names.

    Raises as ``read_volume``; RejectedError also for a different grid or values other than integers from 0 to 255.
    """
    with opened(path) as file:
        if is_dicom(file):
            return structure_mask(file, volume, patterns)
        raw = _raw(file, path)
        grid, values = raw.grid.check(), raw.load()
    if values.ndim != 3:
        raise RejectedError("a mask of several channels")
    integers = values.dtype.kind in "biu" or (values.dtype.kind == "f" and bool((values == np.rint(values)).all()))
    if not (integers and values.min() >= 0 and values.max() <= 255):
        raise RejectedError("a mask with values other than integers from 0 to 255")
    values = values.astype(np.uint8)
    if grid.sheared:
        stack = stack_of(grid)
        values, grid = stack.straighten(values, mask=True), stack.grid.check()
    if not grid.turned().same_as(Grid(volume.shape, volume.affine)):
        raise RejectedError("the mask's grid is not the volume's")
    return np.ascontiguousarray(turn(values, grid.affine)[0])


def grid_of(path: Path) -> tuple[Grid, Grid]:
    """From the header alone: the grid of the file's values, and of the volume as read.

    Raises as ``read_volume``.
    """
    with opened(path) as file:
        stored = _raw(file, path).grid.check()
    return stored, (stack_of(stored).grid if stored.sheared else stored).turned()


def is_volume(image: object) -> bool:
    """Return whether ``image`` is a file with a volume's header, or an input that is not a file."""
    if not isinstance(image, Path):
        return True
    try:
        with opened(image) as file:
            return is_dicom(file) or bool(_raw(file, image))
    except RejectedError:
        return False


def _raw(file: BinaryIO, path: Path) -> RawVolume:
    """Detect the format by the file's first bytes, never by its name."""
    if is_numpy(file):
        array = open_array(file)
        if len(array.shape) not in (3, 4):
            raise RejectedError("an array of other than three axes, or four with the channels first")
        z, y, x = array.shape[-3:]
        # No geometry: voxels of 1 mm, z towards the head, y to the back, x to the left.
        return RawVolume(Grid((z, y, x), LPS_TO_RAS.copy()), array.values)
    start = file.read(32)
    file.seek(0)
    if start.startswith(b"NRRD"):
        return open_nrrd(file, path)
    if is_metaimage(start):
        return open_metaimage(file, path)
    if start.startswith(TIFF):
        return open_tiff(file)
    if start.startswith(GZIP) or is_nifti(start):
        return open_nifti(file)
    raise RejectedError("not a NIfTI, MetaImage, NRRD, TIFF or NumPy file, nor DICOM")
