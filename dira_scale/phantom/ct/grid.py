"""Voxel positions in DICOM's patient frame: x to the left, y to the back, z to the head (LPS), in mm."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ScanGrid:
    """An axial volume without tilt.

    Attributes:
        shape: voxels in z, y, x.
        spacing: mm in z, y, x.
        origin: (x, y, z) of the first voxel's centre, mm, LPS.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]

    @classmethod
    def around(
        cls, centre: NDArray | tuple[float, float, float], shape: tuple[int, int, int], spacing: tuple[float, ...]
    ) -> "ScanGrid":
        """The grid centred at ``centre`` (x, y, z)."""
        half = [(n - 1) / 2 * s for n, s in zip(shape[::-1], spacing[::-1], strict=True)]
        x, y, z = (round(float(c - h), 4) for c, h in zip(centre, half, strict=True))
        return cls(shape, (spacing[0], spacing[1], spacing[2]), (x, y, z))

    def line(self, axis: int) -> NDArray:
        """Voxel centre coordinates along axis 0 (z), 1 (y) or 2 (x)."""
        return self.origin[2 - axis] + self.spacing[axis] * np.arange(self.shape[axis])

    @property
    def affine(self) -> NDArray[np.float64]:
        """NIfTI's: from (x, y, z) indices to mm to the right, front and head (RAS+)."""
        z, y, x = self.spacing
        affine = np.diag([-x, -y, z, 1.0])
        affine[:3, 3] = -self.origin[0], -self.origin[1], self.origin[2]
        return affine

    def index(self, point: NDArray | tuple[float, ...]) -> NDArray:
        """(x, y, z) in mm -> (z, y, x) in voxels."""
        return (np.asarray(point, float)[..., ::-1] - np.array(self.origin[::-1])) / np.array(self.spacing)
