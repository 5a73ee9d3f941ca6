"""An image as stored: integers between black and white, grey or of three colours, and how it is shrunk."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import PIL.Image

from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.dataset.pixels.limits import MAX_PIXELS, MAX_SPACING

FLAT = "all pixels are equal"


class GreyWindow(NamedTuple):
    """The source values displayed as black and white, and the difference between adjacent values."""

    low: float
    high: float
    step: float


@dataclass(frozen=True)
class GreyImage:
    """One decoded image.

    Attributes:
        pixels: uint8 or uint16 [H, W]; in colour [H, W, 3].
        low, high: the stored values of black and white, of all channels.
        spacing: millimetres between pixels in y and x, if the file gives them.
    """

    pixels: np.ndarray
    low: float
    high: float
    spacing: tuple[float, float] | None

    @property
    def flat(self) -> bool:
        plane = self.pixels.reshape(-1, self.pixels.shape[2] if self.pixels.ndim == 3 else 1)
        return bool((plane.min(0) == plane.max(0)).all())


def check_size(height: int, width: int) -> None:
    """Raises RejectedError for a size that is too large to decode safely."""
    if height * width > MAX_PIXELS:
        raise RejectedError(f"more than {MAX_PIXELS} pixels")
    if height * width == 0:
        raise RejectedError("no pixels")


def own_range(values: np.ndarray, step: float = 1) -> GreyWindow:
    """From the smallest to the largest of ``values``."""
    return GreyWindow(float(values.min()), float(values.max()), step)


def luminance(colours: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 luminance of uint8 or uint16 [H, W, 3], in the same type, rounded as Pillow does."""
    red, green, blue = np.moveaxis(colours.astype(np.uint32), -1, 0)
    return ((19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16).astype(colours.dtype)


def store(
    values: np.ndarray,
    window: GreyWindow,
    bits: int,
    spacing: tuple[float, float] | None = None,
    inverted: bool = False,
) -> GreyImage:
    """Clip to the window, count its steps from 0, and store them in 8 or 16 bits."""
    low, high, step = window
    levels = 255 if bits == 8 else int(np.clip(round((high - low) / step), 1, 65535))
    if values.dtype == np.uint8 and (low, high) == (0, 255) and not inverted:
        pixels = values
    else:
        pixels = values.astype(np.float32)
        np.clip(pixels, low, high, out=pixels)
        pixels -= low
        pixels *= levels / (high - low) if high > low else 0
        np.rint(levels - pixels if inverted else pixels, out=pixels)
    return GreyImage(pixels.astype(np.uint8 if bits == 8 else np.uint16), 0.0, float(levels), spacing)


def shrink(image: GreyImage, max_side: int | None) -> GreyImage:
    """Reduce the longer side to ``max_side``, antialiased (triangle filter); smaller images are unchanged."""
    h, w = image.pixels.shape[:2]
    if max_side is None or max(h, w) <= max_side:
        return image
    pixels = resize(image.pixels, max_side / max(h, w), PIL.Image.Resampling.BILINEAR)
    spacing = image.spacing
    if spacing:
        y, x = spacing[0] * h / pixels.shape[0], spacing[1] * w / pixels.shape[1]
        spacing = (y, x) if max(y, x) <= MAX_SPACING else None
    return replace(image, pixels=pixels, spacing=spacing)


def resize(pixels: np.ndarray, factor: float, method: PIL.Image.Resampling) -> np.ndarray:
    """``pixels`` [H, W] or [H, W, 3] scaled by ``factor``, the size rounded; same type."""
    h, w = (max(1, round(side * factor)) for side in pixels.shape[:2])
    if pixels.ndim == 3 and pixels.dtype != np.uint8:
        return np.stack([resize(channel, factor, method) for channel in np.moveaxis(pixels, -1, 0)], -1)
    if pixels.dtype == np.uint8:
        return np.asarray(PIL.Image.fromarray(pixels).resize((w, h), method))
    floats = np.asarray(PIL.Image.fromarray(pixels.astype(np.float32)).resize((w, h), method))
    return np.rint(floats).astype(pixels.dtype)
