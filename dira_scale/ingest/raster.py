"""PNG and JPEG by Pillow: images to one grey channel, masks with their values as they are."""

from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from PIL import ImageOps

from dira_scale.ingest.grey import FLAT, Image, Window, check_size, own_range, store
from dira_scale.ingest.verdict import BadImage, judged


def read_raster(file: BinaryIO, bits: int) -> Image:
    """Raises BadImage."""
    picture, _ = _load(file)
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        image = store(values, own_range(values), bits)
    else:
        image = store(np.asarray(picture.convert("L")), Window(0, 255, 1), bits)
    if image.flat:
        raise BadImage(FLAT)
    return image


def read_mask(file: BinaryIO) -> np.ndarray:
    """A PNG of 1 to 8 bits to uint8 [H, W]: grey values or palette indices as they are. Raises BadImage.

    Nothing else is taken: in a JPEG values have run into one another, and 16 bits or colour would have to be changed.
    """
    picture, kind = _load(file)
    if kind != "PNG" or picture.mode not in ("1", "L", "P"):
        raise BadImage(f"a mask must be a PNG of grey values or indices of at most 8 bits, not {kind} {picture.mode}")
    return np.asarray(picture).astype(np.uint8)


def _load(file: BinaryIO) -> tuple[Any, str]:
    """The picture, turned as its EXIF orientation says, and its format."""
    PIL.Image.MAX_IMAGE_PIXELS = None  # our own limit, the same for every format
    with judged("not a PNG, JPEG or DICOM file"):
        picture = PIL.Image.open(file, formats=("PNG", "JPEG"))
    check_size(picture.height, picture.width)
    with judged(f"damaged or cut short ({{}} in {picture.format} decoding)"):
        if picture.format == "JPEG" and picture.mode == "RGB":
            picture.draft("L", picture.size)  # decodes the luma channel alone
        picture.load()
        return ImageOps.exif_transpose(picture), picture.format
