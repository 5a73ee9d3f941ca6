"""Multi-page TIFF as a stack of slices, by Pillow."""

import io
from typing import BinaryIO

import numpy as np
import PIL.Image

from dira_scale.imaging.rejection import RejectedError, rejects
from dira_scale.imaging.volumes.geometry import LPS_TO_RAS, Grid
from dira_scale.imaging.volumes.raw import RawVolume

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
