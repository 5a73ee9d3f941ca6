"""Crops of volumes: boxes of given sizes, mirrored and turned."""

from dataclasses import dataclass

import numpy as np

from dira_scale.train.data import random
from dira_scale.train.data.geometry.crop import Geometry, boxes, in_stored


@dataclass(frozen=True)
class VolumeCrop:
    """A box of one of the ``sizes``, (depth, height, width), anywhere; mirrored along each axis with probability
    ``flip`` (of all, or of each), then transposed (height and width) and turned by 90, 180 or 270 degrees in their
    plane.

    Boxes begin at a whole stored voxel. One that is larger than the volume has all of it within, anywhere.

    Attributes:
        turns, transpose: probabilities.
        border: for each axis how far from the volume's edges a box stays, or as far as it can; empty: 0.
    """

    sizes: tuple[tuple[int, ...], ...]
    flip: float | tuple[float, ...]
    turns: float = 0.0
    transpose: float = 0.0
    border: tuple[int, ...] = ()

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that may be mirrored, counted from the last, which is -1."""
        return tuple(range(-len(self.sizes[0]), 0))

    @property
    def turned(self) -> bool:
        """Return whether height and width may be swapped."""
        return self.turns > 0 or self.transpose > 0

    @property
    def numbers(self) -> int:
        return 1 + 2 * len(self.axes) + 3 * self.turned

    @property
    def least(self) -> tuple[int, ...]:
        *depth, height, width = map(max, zip(*self.sizes, strict=True))
        return (*depth, max(height, width), max(height, width)) if self.turned else (*depth, height, width)

    def draw(
        self, u: np.ndarray, sides: np.ndarray, step: np.ndarray | None = None, around: np.ndarray | None = None
    ) -> Geometry:
        """The crops of volumes with ``sides`` int64 [b, n], by ``u`` [b, numbers], uniform in [0, 1).

        ``step`` [b, n]: stored voxels for each voxel of a size; None: 1. ``around`` [b, n]: the stored voxel in the
        middle of a box, or as near to it as the box stays within; NaN, or None: anywhere.
        """
        flip, transposed = self.orientation(u)
        extents = self.extents(transposed, step)
        chosen = random.integers(u[:, 0], 0, len(self.sizes) - 1)
        extent = np.take_along_axis(extents, chosen[:, None, None], 1)[:, 0]
        low, high = self.starts(extent, sides, step)
        start = random.integers(u[:, 1 : 1 + len(self.axes)], low, high)
        if around is not None:
            centred = np.floor(np.nan_to_num(around) + (1 - extent) / 2).astype(np.int64)
            start = np.where(np.isnan(around), start, centred.clip(low, high))
        return Geometry(boxes(start, extent), flip, transposed)

    def orientation(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which axes are mirrored, bool [b, n], and whether height and width are then swapped, bool [b]."""
        n = len(self.axes)
        flip, transposed = u[:, 1 + n : 1 + 2 * n] < np.array(self.flip), np.zeros(len(u), bool)
        if self.turned:
            transposition, turn, quarter = u[:, 1 + 2 * n :].T
            quarters = np.where(turn < self.turns, random.integers(quarter, 1, 3), 0)
            transposed = transposition < self.transpose
            flip[:, -2:] ^= (quarters >= 2)[:, None]  # half a turn mirrors both axes
            # A quarter turn transposes, and mirrors what is then the height.
            once = quarters % 2 == 1
            flip[:, -1] ^= once & ~transposed
            flip[:, -2] ^= once & transposed
            transposed = transposed ^ once
        return flip, transposed

    def extents(self, transposed: np.ndarray, step: np.ndarray | None) -> np.ndarray:
        """Return the extents of boxes of each size in stored voxels, [b, sizes, n]; their height and width change
        places later."""
        sizes = np.array(self.sizes)
        extents = np.where(transposed[:, None, None], sizes[:, [*range(sizes.shape[1] - 2), -1, -2]], sizes)
        return extents if step is None else in_stored(extents, step[:, None])

    def starts(self, extents: np.ndarray, sides: np.ndarray, step: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The first and the last voxel at which boxes of ``extents`` may begin, int64 like these."""
        free = np.floor(sides - extents).astype(np.int64)
        border = np.array(self.border or (0,)) * (1 if step is None else step)
        low = np.minimum(np.rint(border).astype(np.int64), free // 2)
        larger = extents > sides
        return np.where(larger, np.ceil(sides - extents).astype(np.int64), low), np.where(larger, 0, free - low)
