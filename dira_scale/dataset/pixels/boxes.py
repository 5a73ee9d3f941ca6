"""Boxes in images and volumes, with the crops and flips made of them, in any number of dimensions."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CropBox = tuple[float, ...]  # where it starts on each axis, then how far it extends: (y, x, h, w), (z, y, x, d, h, w)

PixelSlices = tuple[slice, ...]  # whole pixels, a slice for each axis


class Crop(NamedTuple):
    """A box in stored pixels, for each axis whether what is cut out is mirrored along it, and whether the last two axes
    then change places."""

    box: CropBox
    flip: tuple[bool, ...]
    transposed: bool = False


def around(box: CropBox, sides: Sequence[int]) -> tuple[PixelSlices, CropBox]:
    """The whole pixels around a box, a slice for each axis, and the box within them.

    Raises ValueError if they are not all within an image of these ``sides``.
    """
    dimensions = len(box) // 2
    starts, extents = box[:dimensions], box[dimensions:]
    first = [math.floor(start) for start in starts]
    last = [math.ceil(start + extent) for start, extent in zip(starts, extents, strict=True)]
    if min(first) < 0 or any(end > side for end, side in zip(last, sides, strict=True)):
        raise ValueError(f"crop {box} is not within the image of {' x '.join(map(str, sides))} pixels")
    within = (start - pixel for start, pixel in zip(starts, first, strict=True))
    return tuple(map(slice, first, last)), (*within, *extents)


def inside(box: CropBox, sides: Sequence[int]) -> CropBox:
    """The part of a box that an image of these ``sides`` covers."""
    starts = [max(0, start) for start in box[: len(sides)]]
    ends = [min(side, start + extent) for side, start, extent in zip(sides, box, box[len(sides) :], strict=False)]
    return (*starts, *(end - start for start, end in zip(starts, ends, strict=True)))


def mirrored(pixels: np.ndarray, flip: Sequence[bool]) -> np.ndarray:
    """A view of ``pixels`` [..., *size], mirrored along those of the last axes where ``flip`` is true."""
    return pixels[(..., *(slice(None, None, -1 if reverse else None) for reverse in flip))]
