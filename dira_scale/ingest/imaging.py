"""The only place that decodes source formats: PNG and JPEG by Pillow, DICOM by pydicom, to one grey channel.

Rules, so that two readers of one file agree:

* Colour becomes luminance (ITU-R BT.601: .299 R + .587 G + .114 B, which leaves grey stored as RGB as it is; a colour
  JPEG's own luma channel is exactly that). Palettes are looked up first, transparency is dropped, EXIF orientation is
  applied.
* An image has a *window*, two values that are shown as black and white. DICOM: the first VOI window of the file, in
  modality values (after rescale slope and intercept), as PS3.3 C.11.2.1.2 and C.11.2.1.3 define it. 8 bits: 0 and 255.
  Otherwise (16-bit PNG, DICOM without a window): the image's own smallest and largest value.
* Values are clipped to the window and stored as whole numbers from 0 (``low``) to ``high``. With 8 bits ``high`` is
  255. With 16 bits a stored step is a step of the source (12-bit data keep their 4096 values exactly), so ``high`` is
  the window's width in such steps, at most 65535. MONOCHROME1 is turned round, so that low is always black.
"""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import pydicom
from PIL import ImageOps
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_modality_lut, apply_voi

MAX_PIXELS = 2**26  # 67 million; large mammograms have 30. More is a damaged header, or one meant to fill the memory.


class BadImage(Exception):  # noqa: N818 (it is a verdict on a file, not a failure of ours)
    """A file that cannot become a sample. The reason names no path and no value of the file: it leaves the hospital."""


@dataclass(frozen=True)
class Image:
    """One decoded image.

    Attributes:
        pixels: uint8 or uint16 [H, W].
        low, high: the stored values that are black and white.
        spacing: millimetres between pixels in y and x, where the file says so.
    """

    pixels: np.ndarray
    low: float
    high: float
    spacing: tuple[float, float] | None


def is_dicom(file: BinaryIO) -> bool:
    """Whether a DICOM preamble stands at the file's start; the position is put back there."""
    file.seek(0)
    start = file.read(132)
    file.seek(0)
    return start[128:] == b"DICM"


def read_image(path: Path, bits: int) -> Image:
    """Decode ``path`` to ``bits`` (8 or 16). Raises BadImage."""
    with _opened(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # decoders warn of odd headers by their values
        return _read_dicom(file, bits) if is_dicom(file) else _read_picture(file, bits)


def read_mask(path: Path) -> np.ndarray:
    """Decode a PNG mask to uint8 [H, W], its values as they are. Raises BadImage."""
    with _opened(path) as file:
        return np.asarray(_pillow(file).convert("L"))


def shrink(image: Image, max_side: int | None) -> Image:
    """Antialiased (triangle filter) reduction of the longer side to ``max_side``; a smaller image stays as it is."""
    h, w = image.pixels.shape
    if max_side is None or max(h, w) <= max_side:
        return image
    pixels = resize(image.pixels, max_side / max(h, w), PIL.Image.Resampling.BILINEAR)
    spacing = image.spacing
    if spacing:
        spacing = (spacing[0] * h / pixels.shape[0], spacing[1] * w / pixels.shape[1])
    return replace(image, pixels=pixels, spacing=spacing)


def resize(pixels: np.ndarray, factor: float, method: PIL.Image.Resampling) -> np.ndarray:
    """``pixels`` [H, W] scaled by ``factor`` to the nearest whole size, in the same type."""
    h, w = (max(1, round(side * factor)) for side in pixels.shape)
    if pixels.dtype == np.uint8:
        return np.asarray(PIL.Image.fromarray(pixels).resize((w, h), method))
    floats = np.asarray(PIL.Image.fromarray(pixels.astype(np.float32)).resize((w, h), method))
    return np.rint(floats).astype(pixels.dtype)


def _opened(path: Path) -> BinaryIO:
    try:
        if path.stat().st_size == 0:
            raise BadImage("the file is empty")
        return path.open("rb")
    except OSError as error:
        raise BadImage(f"the file cannot be read ({type(error).__name__})") from error


def _read_picture(file: BinaryIO, bits: int) -> Image:
    picture = _pillow(file)
    if not picture.mode.startswith("I"):
        return _store(np.asarray(picture.convert("L")), (0, 255), 1, bits, None)
    values = np.asarray(picture)
    return _store(values, _own_range(values), 1, bits, None)


def _pillow(file: BinaryIO) -> Any:
    PIL.Image.MAX_IMAGE_PIXELS = None  # our own limit below, the same for every format
    try:
        picture = PIL.Image.open(file, formats=("PNG", "JPEG"))
    except Exception as error:  # whatever a decoder says about bytes that it cannot read
        raise BadImage("not a PNG, JPEG or DICOM file") from error
    _check_size(picture.height, picture.width)
    try:
        if picture.format == "JPEG" and picture.mode == "RGB":
            picture.draft("L", picture.size)  # decodes the luma channel alone
        picture.load()
        return ImageOps.exif_transpose(picture)
    except Exception as error:
        raise BadImage(f"damaged or cut short ({type(error).__name__} in {picture.format} decoding)") from error


def _read_dicom(file: BinaryIO, bits: int) -> Image:
    try:
        header = pydicom.dcmread(file)
        h, w, frames = int(header.Rows), int(header.Columns), int(header.get("NumberOfFrames") or 1)
        photometric = str(header.PhotometricInterpretation)
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise BadImage(f"DICOM header is damaged or has no image ({type(error).__name__})") from error
    _check_size(h * frames, w)
    if frames > 1:
        raise BadImage("DICOM with several frames")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise BadImage("DICOM that is not monochrome")
    try:
        values = apply_modality_lut(header.pixel_array, header)
        window, values = _window(header, values)
        step = abs(float(header.get("RescaleSlope") or 1))
        spacing = header.get("PixelSpacing") or header.get("ImagerPixelSpacing")
        spacing = (float(spacing[0]), float(spacing[1])) if spacing else None
    except BadImage:
        raise
    except NotImplementedError as error:
        raise BadImage(f"DICOM in a coding that cannot be read here ({header.file_meta.TransferSyntaxUID})") from error
    except Exception as error:
        raise BadImage(f"damaged or cut short ({type(error).__name__} in DICOM decoding)") from error
    return _store(values, window, step, bits, spacing, inverted=photometric == "MONOCHROME1")


def _window(header: Any, values: np.ndarray) -> tuple[tuple[float, float], np.ndarray]:
    """The values shown as black and white, and the values that they refer to."""
    if header.get("WindowCenter") in (None, "") or header.get("WindowWidth") in (None, ""):
        if header.get("VOILUTSequence"):
            values = apply_voi(values.astype(np.int32), header)
        return _own_range(values), values
    center, width = (float(v[0] if isinstance(v, MultiValue) else v) for v in (header.WindowCenter, header.WindowWidth))
    function = str(header.get("VOILUTFunction") or "LINEAR")
    if function == "LINEAR" and width > 1:
        return (center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2), values
    if function == "LINEAR_EXACT" and width > 0:
        return (center - width / 2, center + width / 2), values
    raise BadImage("DICOM window of an unknown function or impossible width")


def _own_range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise BadImage(f"more than {MAX_PIXELS} pixels")
    if height * width == 0:
        raise BadImage("no pixels")


def _store(
    values: np.ndarray,
    window: tuple[float, float],
    step: float,
    bits: int,
    spacing: tuple[float, float] | None,
    inverted: bool = False,
) -> Image:
    """Clip to the window, count its steps from 0, and store them in 8 or 16 bits."""
    if values.min() == values.max():
        raise BadImage("all pixels are equal")
    low, high = window
    levels = 255 if bits == 8 else int(np.clip(round((high - low) / step), 1, 65535))
    if values.dtype == np.uint8 and window == (0, 255) and not inverted:
        pixels = values
    else:
        pixels = values.astype(np.float32)
        np.clip(pixels, low, high, out=pixels)
        pixels -= low
        pixels *= levels / (high - low)
        np.rint(levels - pixels if inverted else pixels, out=pixels)
    return Image(pixels.astype(np.uint8 if bits == 8 else np.uint16), 0.0, float(levels), spacing)
