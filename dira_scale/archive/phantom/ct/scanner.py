"""The scanner: its grid of voxels, sharpness, slice thickness, noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dira_scale.archive.phantom.ct.solids import Array


@dataclass(frozen=True)
class ScanGrid:
    """An axial volume without tilt."""

    shape: tuple[int, ...]  # voxels in z, y, x
    spacing: tuple[float, float, float]  # mm in z, y, x
    origin: tuple[float, ...]  # (x, y, z) of the first voxel's centre, mm, LPS

    @classmethod
    def around(
        cls, centre: NDArray | Sequence[float], shape: tuple[int, int, int], spacing: tuple[float, float, float]
    ) -> "ScanGrid":
        """The grid centred at ``centre`` (x, y, z)."""
        half = (np.array(shape) - 1) / 2 * np.array(spacing)
        return cls(shape, spacing, tuple(round(float(v), 4) for v in np.asarray(centre) - half[::-1]))

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

    def index(self, point: NDArray | Sequence[float]) -> NDArray:
        """(x, y, z) in mm -> (z, y, x) in voxels."""
        return (np.asarray(point, float)[..., ::-1] - np.array(self.origin[::-1])) / np.array(self.spacing)


SLICES = (0.7, 1.0, 1.25, 2.0, 2.5, 3.0, 5.0)  # mm between slices
SLICE_SHARE = (0.08, 0.25, 0.25, 0.14, 0.12, 0.08, 0.08)
FIELD = (282.0, 486.0)  # mm per side: 0.55 ... 0.95 mm per pixel at 512
BITS = (-1024, 3071)  # HU range of 12 bits


@dataclass(frozen=True)
class Scanner:
    """The acquisition parameters of a study."""

    kernel: str  # its name in the header
    edge: float  # width of a blurred edge in mm
    sigma: float  # noise standard deviation, HU
    grain: float  # mm over which the kernel smooths the noise

    @classmethod
    def draw(cls, rng: np.random.Generator, sharp_share: float, thickness: float) -> "Scanner":
        dose = float(rng.uniform(0.75, 1.5))
        if rng.random() < sharp_share:
            return cls("SHARP", 0.9, 30 * dose / thickness**0.5, 0.3)
        return cls("SOFT", 1.25, 12.5 * dose / thickness**0.5, 0.6)

    def noise(self, grid: ScanGrid, seed: int, number: int) -> Array:
        """HU to add to slice ``number``, [Y, X]."""
        white = np.random.default_rng((seed, number)).standard_normal(grid.shape[1:], np.float32)
        smooth = ndimage.gaussian_filter(white, self.grain / grid.spacing[1])
        return smooth * np.float32(self.sigma / smooth.std())
