"""Crops of volumes: boxes of given sizes."""

from dataclasses import dataclass

import numpy as np

from dira_scale.data import random
from dira_scale.data.geometry.crop import Geometry, placed


@dataclass(frozen=True)
class VolumeCrop:
    """A box of one of the ``sizes``, (depth, height, width) in voxels, anywhere; mirrored along each axis with
    probability ``flip``."""

    sizes: tuple[tuple[int, ...], ...]
    flip: float

    @property
    def axes(self) -> tuple[int, ...]:
        return tuple(range(-len(self.sizes[0]), 0))

    @property
    def numbers(self) -> int:
        return 1 + 2 * len(self.axes)

    @property
    def least(self) -> tuple[int, ...]:
        return tuple(map(max, zip(*self.sizes, strict=True)))

    def draw(self, u: np.ndarray, sides: np.ndarray) -> Geometry:
        """As ``crop.CropRule``."""
        size, position, flip = np.split(u, [1, 1 + len(self.axes)], axis=1)
        extents = np.array(self.sizes)[random.integers(size[:, 0], 0, len(self.sizes) - 1)]
        return Geometry(placed(position, sides, extents), flip < self.flip)
