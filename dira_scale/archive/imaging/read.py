"""The only place that decodes images: DICOM (``dicom/``); PNG, JPEG, TIFF, NumPy.

Rules:

* ``colour``: images in colour are refused, or become luminance (ITU-R BT.601: .299 R + .587 G + .114 B, which
  leaves grey stored as RGB unchanged; a colour JPEG's luma channel is exactly that), or are stored as RGB, where grey
  ones are refused or repeated (``colour``). Palettes are looked up first, transparency is dropped, EXIF orientation is
  applied.
* An image has a *window*, two values displayed as black and white. DICOM: the first VOI window of the file, in
  modality values (after rescale slope and intercept), as defined in PS3.3 C.11.2.1.2 and C.11.2.1.3. 8 bits: 0 and
  255. Otherwise (16-bit PNG, wider TIFF and arrays; DICOM without a window, or with one narrower than two values or
  under which all pixels are equal): the image's own smallest and largest value.
* DICOM pixel padding is black and excluded from the image's own range.
* Values are clipped to the window and stored as integers from 0 (``low``) to ``high``. With 8 bits ``high`` is 255.
  With 16 bits a stored step is a source step (12-bit data keep their 4096 values exactly), so ``high`` is the window's
  width in such steps, at most 65535. MONOCHROME1 is inverted, so that low is always black.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from PIL import ImageOps

from dira_scale.archive.imaging.arrays import is_numpy, open_array
from dira_scale.archive.imaging.burned_in import check_header, check_pixels
from dira_scale.archive.imaging.colour import ANY, GREY, LUMINANCE, RGB, chosen, coloured, refuse_colour
from dira_scale.archive.imaging.dicom.frames import DicomFile
from dira_scale.archive.imaging.dicom.header import is_dicom
from dira_scale.archive.imaging.dicom.values import spacing, windowed
from dira_scale.archive.imaging.files import opened
from dira_scale.archive.imaging.grey import FLAT, GreyImage, GreyWindow, check_size, luminance, own_range, store
from dira_scale.archive.imaging.rejection import RejectedError, rejects
from dira_scale.archive.imaging.settings import ReadSettings

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it logs values of damaged headers

PHOTOMETRIC = 262  # TIFF tag; 0 means that small values are white, which Pillow honours for 8 bits only


def read_image(path: Path, bits: int, burned_in: str = "refuse", number: int = 0, colour: str = LUMINANCE) -> GreyImage:
    """Decode ``path`` to ``bits`` (8 or 16); of multi-frame DICOM, frame ``number`` (from 0).

    ``burned_in``, ``colour``: see ``ReadSettings``.

    Raises:
        RejectedError: the file cannot become a sample.
        OSError, MemoryError: it could not be read now; not the file's fault.
    """
    with opened(path) as file:
        if is_dicom(file):
            image = _read_dicom(file, bits, burned_in, number, colour)
        else:
            image = _read_raster(file, bits, colour)
    image = replace(image, pixels=coloured(colour, image.pixels))
    if image.flat:
        raise RejectedError(FLAT)
    if burned_in == "refuse":
        check_pixels(image)
    return image


def _read_dicom(file: BinaryIO, bits: int, burned_in: str, number: int, colour: str) -> GreyImage:
    """Raises RejectedError, also if the header indicates burned-in text, unless ``burned_in=keep``."""
    dicom = DicomFile(file)
    if burned_in != "keep":
        check_header(dicom.header)
    frame = dicom.frame(number)
    if frame.colours is not None and frame.top is not None:
        values = chosen(colour, frame.colours, lambda: frame.values, frame.top)
        return store(values, GreyWindow(0, frame.top, 1), bits, spacing(frame.header))
    for values, window in windowed(frame.header, frame.values, frame.step, ~frame.padding):
        black = window.high if frame.inverted else window.low
        filled = np.where(frame.padding, black, values) if frame.padding.any() else values
        image = store(filled, window, bits, spacing(frame.header), frame.inverted)
        if not image.flat:
            return image
    raise RejectedError(FLAT)


def _read_raster(file: BinaryIO, bits: int, colour: str) -> GreyImage:
    """Raises RejectedError."""
    if is_numpy(file):
        array = open_array(file)
        in_colour = array.shape[2:] == (3,) and array.dtype in (np.uint8, np.uint16)
        if len(array.shape) != 2 and not in_colour:
            raise RejectedError("not an image array: give [H, W], or [H, W, 3] of 8 or 16 bits")
        check_size(*array.shape[:2])
        values = array.values()
        if in_colour:
            top = 255 if values.itemsize == 1 else int(values.max())
            values = chosen(colour, lambda: values, lambda: luminance(values), top)
        return _store(values, bits)
    picture, kind = _load(file, colour)
    if picture.mode in ("1", "L", "LA") or picture.mode[0] in "IF":
        deep = picture.mode[0] in "IF"
        values = np.asarray(picture if deep else picture.convert("L"))
        return _store(values, bits, inverted=deep and kind == "TIFF, white is 0")
    picture = picture.convert("RGB") if picture.mode == "LAB" else picture  # from which Pillow makes no grey
    rgb, grey = (lambda mode=mode: np.asarray(picture.convert(mode)) for mode in ("RGB", "L"))
    return _store(chosen(colour, rgb, grey, 255), bits)


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


def read_mask(path: Path) -> np.ndarray:
    """Decode a PNG of 1 to 8 bits to uint8 [H, W]: grey values or palette indices, unchanged. Raises as ``read_image``.

    Nothing else is accepted: JPEG blurs values, and 16 bits or colour would need conversion.
    """
    with opened(path) as file:
        picture, kind = _load(file)
    if kind != "PNG" or picture.mode not in ("1", "L", "P"):
        raise RejectedError(
            f"a mask must be a PNG of grey values or indices of at most 8 bits, not {kind} {picture.mode}"
        )
    return np.asarray(picture).astype(np.uint8)


def _load(file: BinaryIO, colour: str = RGB) -> tuple[Any, str]:
    """The picture, rotated according to its EXIF orientation, and its format; of a JPEG in colour only the luma
    channel unless ``colour`` stores three. Raises RejectedError."""
    PIL.Image.MAX_IMAGE_PIXELS = None  # we apply our own limit to every format
    with rejects("not a PNG, JPEG, TIFF, NumPy or DICOM file"):
        picture = PIL.Image.open(file, formats=("PNG", "JPEG", "TIFF"))
        kind, pages = picture.format, 1
        if kind == "TIFF":
            kind, pages = "TIFF, white is 0" if picture.tag_v2.get(PHOTOMETRIC) == 0 else kind, picture.n_frames
    check_size(picture.height, picture.width)
    if pages > 1:
        raise RejectedError("TIFF with several pages", decided_by="pages")
    with rejects(f"damaged or cut short ({{}} in {picture.format} decoding)"):
        if picture.format == "JPEG" and picture.mode == "RGB" and colour not in (RGB, ANY):
            if colour == GREY:
                file.seek(0)
                small = PIL.Image.open(file, formats=("JPEG",))
                small.draft("RGB", (max(1, picture.width // 8), max(1, picture.height // 8)))  # decodes an eighth
                refuse_colour(np.asarray(small), 255)
            picture.draft("L", picture.size)
        picture.load()
        return ImageOps.exif_transpose(picture), kind


@dataclass(frozen=True)
class DicomFrame:
    """One frame of a DICOM file, a ``SourceImage``."""

    path: Path
    number: int  # from 0

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self, settings: ReadSettings) -> GreyImage:
        """Raises as ``read_image``."""
        if settings.dims == 3:
            raise RejectedError("a frame of a DICOM file is not a volume", decided_by="frames")
        return read_image(self.path, settings.bits, settings.burned_in, self.number, settings.colour)
