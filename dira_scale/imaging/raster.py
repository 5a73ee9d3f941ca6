"""PNG, JPEG and TIFF by Pillow, NumPy arrays: images become one grey channel, masks keep their values."""

import logging
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from PIL import ImageOps

from dira_scale.imaging.arrays import is_numpy, open_array
from dira_scale.imaging.grey import FLAT, GreyImage, GreyWindow, check_size, luminance, own_range, store
from dira_scale.imaging.rejection import RejectedError, rejects

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it logs values of damaged headers

PHOTOMETRIC = 262  # TIFF tag; 0 means that small values are white, which Pillow honours for 8 bits only


def read_raster(file: BinaryIO, bits: int) -> GreyImage:
    """Raises RejectedError."""
    if is_numpy(file):
        image = _store(_array(file), bits)
    else:
        picture, kind = _load(file)
        if picture.mode[0] in "IF":
            image = _store(np.asarray(picture), bits, inverted=kind == "TIFF, white is 0")
        else:
            image = _store(np.asarray(picture.convert("L")), bits)
    if image.flat:
        raise RejectedError(FLAT)
    return image


def _store(values: np.ndarray, bits: int, inverted: bool = False) -> GreyImage:
    """8 bits use the full range of the type, anything wider the image's own."""
    if values.dtype == np.uint8:
        return store(values, GreyWindow(0, 255, 1), bits, inverted=inverted)
    window = own_range(values)  # NaN and infinity propagate into it
    if not np.isfinite(window.high - window.low):
        raise RejectedError("values that are NaN or infinite")
    if values.dtype.kind == "f":
        window = window._replace(step=(window.high - window.low) / 65535 or 1)
    return store(values, window, bits, inverted=inverted)


def _array(file: BinaryIO) -> np.ndarray:
    """[H, W] of a ``.npy`` or ``.npz``; the luminance of three colours."""
    array = open_array(file)
    colours = array.shape[2:] == (3,) and array.dtype in (np.uint8, np.uint16)
    if len(array.shape) != 2 and not colours:
        raise RejectedError("not an image array: give [H, W], or [H, W, 3] of 8 or 16 bits")
    check_size(*array.shape[:2])
    return luminance(array.values()) if colours else array.values()


def read_mask(file: BinaryIO) -> np.ndarray:
    """Read a PNG of 1 to 8 bits as uint8 [H, W]: grey values or palette indices, unchanged. Raises RejectedError.

    Nothing else is accepted: JPEG blurs values, and 16 bits or colour would need conversion.
    """
    picture, kind = _load(file)
    if kind != "PNG" or picture.mode not in ("1", "L", "P"):
        raise RejectedError(
            f"a mask must be a PNG of grey values or indices of at most 8 bits, not {kind} {picture.mode}"
        )
    return np.asarray(picture).astype(np.uint8)


def _load(file: BinaryIO) -> tuple[Any, str]:
    """The picture, rotated according to its EXIF orientation, and its format."""
    PIL.Image.MAX_IMAGE_PIXELS = None  # we apply our own limit to every format
    with rejects("not a PNG, JPEG, TIFF, NumPy or DICOM file"):
        picture = PIL.Image.open(file, formats=("PNG", "JPEG", "TIFF"))
        kind, pages = picture.format, 1
        if kind == "TIFF":
            kind, pages = "TIFF, white is 0" if picture.tag_v2.get(PHOTOMETRIC) == 0 else kind, picture.n_frames
    check_size(picture.height, picture.width)
    if pages > 1:
        raise RejectedError("TIFF with several pages (recipe.dims=3 reads them as a volume)")
    with rejects(f"damaged or cut short ({{}} in {picture.format} decoding)"):
        if picture.format == "JPEG" and picture.mode == "RGB":
            picture.draft("L", picture.size)  # decodes only the luma channel
        picture.load()
        return ImageOps.exif_transpose(picture), kind
