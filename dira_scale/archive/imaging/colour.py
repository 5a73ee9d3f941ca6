"""Grey or colour: which of the two a file shows, and what is stored of it."""

from collections.abc import Callable
from typing import Final, Literal

import numpy as np

from dira_scale.archive.imaging.rejection import RejectedError

ColourMode = Literal["grey", "luminance", "rgb", "any"]
GREY: Final = "grey"
LUMINANCE: Final = "luminance"
RGB: Final = "rgb"
ANY: Final = "any"
VIVID, FEW = 1 / 16, 0.01  # a coloured pixel's channels differ by more of the range; of a grey image so many pixels do


class ColourError(RejectedError):
    """An image in colour where grey ones are stored, or the reverse."""

    stage = "colour"


def refuse_colour(rgb: np.ndarray, top: int) -> None:
    """Raise ColourError for [H, W, 3] from 0 to ``top`` in colour: a side marker, or the noise of a JPEG, is none."""
    if float(np.mean(_differences(rgb) > VIVID * top)) > FEW:
        raise ColourError("in colour", decided_by="colour")


def coloured(colour: str, pixels: np.ndarray) -> np.ndarray:
    """Return ``pixels``, [H, W] or [H, W, 3], as ``colour`` stores them: with ``any``, one channel three times.

    Raises ColourError, with ``rgb``, for an image of one channel, or whose three are equal everywhere.
    """
    if colour == RGB and (pixels.ndim == 2 or not _differences(pixels).any()):
        raise ColourError("grey", decided_by="grey")
    return np.repeat(pixels[..., None], 3, axis=2) if colour == ANY and pixels.ndim == 2 else pixels


def chosen(colour: str, rgb: Callable[[], np.ndarray], grey: Callable[[], np.ndarray], top: int) -> np.ndarray:
    """Return the image to store of a file of three channels from 0 to ``top``: ``rgb`` [H, W, 3], or ``grey`` [H, W],
    its luminance, as ``colour`` says. Raises ColourError for an image in colour where grey is stored."""
    if colour == LUMINANCE:
        return grey()
    if colour in (RGB, ANY):
        return rgb()
    refuse_colour(rgb(), top)
    return grey()


def _differences(rgb: np.ndarray) -> np.ndarray:
    """[H, W]: how far the channels of each pixel are apart."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
