"""Parallel slices that do not form a rectangular grid: shifted against each other, or unevenly spaced.

With gantry tilt each slice is shifted a little along its columns against the one before (a sheared affine). Each slice
is shifted back within its plane by linear interpolation until the stack is rectangular. New slices are interpolated
between neighbours, at the median distance, only if distances are uneven.
"""

from dataclasses import dataclass

import numpy as np

from dira_scale.archive.imaging.rejection import GeometryError
from dira_scale.archive.imaging.volumes.geometry import RIGHT_ANGLE, Grid
from dira_scale.archive.imaging.volumes.resample import apply, nearest, weights

UNEVEN = 0.05  # tolerated position error in slice distances: headers round to a hundredth of a mm
SHIFTED = 0.5  # voxels, over the whole stack


@dataclass(frozen=True)
class Stack:
    """The positions of slices.

    Attributes:
        corner: affine [4, 4] of the first slice's voxels, its third column along the normal and ``step`` mm long.
        size: rows and columns of a slice.
        positions: [Z] mm along the normal, ascending from 0.
        shifts: [Z, 2] voxels along y and x relative to the first slice.
        step: mm between slices after regularisation.
    """

    corner: np.ndarray
    size: tuple[int, int]
    positions: np.ndarray
    shifts: np.ndarray
    step: float

    @property
    def uneven(self) -> bool:
        return bool(np.abs(self.positions - np.arange(len(self.positions)) * self.step).max() > UNEVEN * self.step)

    @property
    def shifted(self) -> bool:
        return bool(np.abs(self.shifts).max() > SHIFTED)

    @property
    def missing(self) -> int:
        """The number of slices to add so that no two neighbours are more than one and a half steps apart."""
        return int(np.floor(np.diff(self.positions) / self.step - 0.5).clip(0).sum())

    @property
    def between(self) -> np.ndarray:
        """[depth of ``grid``] the position of each new slice in indices of the existing ones: 1.5 is halfway between
        the second and the third."""
        if not self.uneven:
            return np.arange(len(self.positions), dtype=float)
        depth = 1 + int(np.floor(self.positions[-1] / self.step + UNEVEN))
        return np.interp(np.arange(depth) * self.step, self.positions, np.arange(len(self.positions)))

    @property
    def grid(self) -> Grid:
        """The grid of the straightened slices; covers all of them."""
        depth, (height, width) = len(self.between), self.size
        affine = self.corner.copy()
        if self.shifted:
            first, last = np.floor(self.shifts.min(axis=0)), np.ceil(self.shifts.max(axis=0))
            height, width = height + int(last[0] - first[0]), width + int(last[1] - first[1])
            affine[:3, 3] += affine[:3, :2] @ first[::-1]
        return Grid((depth, height, width), affine)

    def straighten(self, voxels: np.ndarray, mask: bool = False) -> np.ndarray:
        """The slices on ``grid``: int16 [..., Z, Y, X]; masks stay uint8, by nearest neighbour. Voxels that no slice
        covers get the smallest value (0 in a mask)."""
        rows, columns = self.grid.shape[1:]
        if self.shifted:
            fill = 0 if mask else int(voxels.min())
            shifted = np.empty((*voxels.shape[:-2], rows, columns), voxels.dtype)
            first = np.zeros(1)
            for index, (down, right) in enumerate(self.shifts - np.floor(self.shifts.min(axis=0))):
                y, x = np.arange(rows) - down, np.arange(columns) - right
                here = (..., slice(index, index + 1), slice(None), slice(None))
                plane, (height, width) = voxels[here], self.size
                shifted[here] = (
                    nearest(plane, first, y, x)
                    if mask
                    else apply(plane, weights(1, first), weights(height, y), weights(width, x), fill)
                )
            voxels = shifted
        if self.uneven:
            at = self.between
            same = [np.arange(side, dtype=float) for side in (rows, columns)]
            if mask:
                return nearest(voxels, at, *same)
            return apply(voxels, weights(len(self.positions), at), *(weights(len(line), line) for line in same))
        return voxels


def stack_of(grid: Grid) -> Stack:
    """A sheared grid as a stack: x and y keep their directions, z becomes their normal.

    Raises GeometryError if x and y are not at right angles: shifting slices cannot correct that.
    """
    x, y, z = grid.affine[:3, :3].T
    if abs(x @ y) > RIGHT_ANGLE * np.linalg.norm(x) * np.linalg.norm(y):
        raise GeometryError("pixels of a slice are not rectangles (sheared rows and columns)")
    down = y - (y @ x) / (x @ x) * x
    normal = np.cross(x, down)
    normal *= (z @ normal) / (normal @ normal)
    per_slice = np.array([z @ down / (down @ down), z @ x / (x @ x)])
    numbers, step = np.arange(grid.shape[0]), float(np.linalg.norm(normal))
    corner = grid.affine.copy()
    corner[:3, :3] = np.stack([x, down, normal], axis=1)
    return Stack(corner, grid.shape[1:], numbers * step, numbers[:, None] * per_slice, step)
