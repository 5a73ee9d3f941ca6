"""Crops of images: torchvision's RandomResizedCrop, and those of an image's own aspect."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dira_scale.train.data import random
from dira_scale.train.data.geometry.crop import Geometry, placed

_TRIES = 10  # of torchvision, before it falls back to a central crop


@dataclass(frozen=True)
class PlaneCrop:
    """An area of ``scale`` times the image's, of a width over height from ``ratio``, anywhere; mirrored left and right
    with probability ``flip``."""

    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float

    numbers: ClassVar[int] = 2 * _TRIES + 3
    axes: ClassVar[tuple[int, ...]] = (-1,)  # that may be mirrored

    def draw(self, u: np.ndarray, sides: np.ndarray) -> Geometry:
        """The crops of images with ``sides`` int64 [b, 2], by ``u`` [b, numbers], uniform in [0, 1): the first of ten
        draws of area and log ratio that fits, or the largest box in the middle whose ratio is allowed."""
        height, width = sides[:, :1], sides[:, 1:]
        area = random.between(u[:, :_TRIES], *self.scale) * height * width
        ratio = np.exp(random.between(u[:, _TRIES : 2 * _TRIES], *np.log(self.ratio)))
        h, w = np.rint(np.sqrt(area / ratio)).astype(np.int64), np.rint(np.sqrt(area * ratio)).astype(np.int64)
        fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
        first, any_fits = fits.argmax(1)[:, None], fits.any(1)[:, None]
        extents = np.concatenate([np.take_along_axis(x, first, 1) for x in (h, w)], 1)
        w = np.minimum(width, np.rint(height * self.ratio[1]).astype(np.int64))
        h = np.minimum(height, np.rint(width / self.ratio[0]).astype(np.int64))
        central = np.concatenate(((height - h) // 2, (width - w) // 2, h, w), 1).astype(np.int32)
        box = np.where(any_fits, placed(u[:, -3:-1], sides, np.where(any_fits, extents, 1)), central)
        left_right = u[:, -1] < self.flip
        return Geometry(box, np.stack((np.zeros_like(left_right), left_right), 1))


@dataclass(frozen=True)
class SizedPlaneCrop:
    """With probability ``p`` a box whose height and width are the same ``share`` of the image's, anywhere; else the
    whole image; mirrored left and right with probability ``flip``."""

    share: tuple[float, float]
    p: float
    flip: float

    numbers: ClassVar[int] = 5
    axes: ClassVar[tuple[int, ...]] = (-1,)

    def draw(self, u: np.ndarray, sides: np.ndarray) -> Geometry:
        """The crops of images with ``sides`` int64 [b, 2], by ``u`` [b, numbers], uniform in [0, 1)."""
        share = np.where(u[:, 0] < self.p, random.between(u[:, 1], *self.share), 1.0)
        extents = np.rint(share[:, None] * sides).astype(np.int64).clip(1)
        left_right = u[:, 4] < self.flip
        return Geometry(placed(u[:, 2:4], sides, extents), np.stack((np.zeros_like(left_right), left_right), 1))
