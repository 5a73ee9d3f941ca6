"""The scanner: its grid of voxels, sharpness, slice thickness, noise."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from dira_scale.archive.phantom.ct.solids import Array


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


SLICES = (0.7, 1.0, 1.25, 2.0, 2.5, 3.0, 5.0)  # mm between slices
SLICE_SHARE = (0.08, 0.25, 0.25, 0.14, 0.12, 0.08, 0.08)
FIELD = (282.0, 486.0)  # mm per side: 0.55 ... 0.95 mm per pixel at 512
BITS = (-1024, 3071)  # HU range of 12 bits
NOISE_CORRELATION = 0.35  # noise correlation of neighbouring slices


@dataclass(frozen=True)
class Scanner:
    """The acquisition parameters of a study.

    Attributes:
        kernel: its name in the header.
        edge: width of a blurred edge in mm.
        sigma: noise standard deviation at the centre of an average body, HU.
        frequency: roll-off of the noise power in cycles per mm.
    """

    kernel: str
    edge: float
    sigma: float
    frequency: float

    @classmethod
    def draw(cls, rng: np.random.Generator, sharp_share: float, thickness: float) -> "Scanner":
        dose = float(rng.uniform(0.75, 1.5))
        if rng.random() < sharp_share:
            return cls("SHARP", 0.9, 30 * dose / thickness**0.5, 0.62)
        return cls("SOFT", 1.25, 12.5 * dose / thickness**0.5, 0.36)

    def blur(self, grid: ScanGrid) -> float:
        """Width of a blurred edge on this grid in mm."""
        return max(self.edge, grid.spacing[1])

    def cuts(self, grid: ScanGrid) -> int:
        """The number of thin slices averaged into one slice."""
        return max(1, int(np.ceil(grid.spacing[0] / max(1.5, 0.8 * self.blur(grid)) - 1e-6)))


class Noise:
    """Correlated noise, generated slice by slice in order.

    Filtered back projection gives noise power that rises with frequency and falls with the kernel's roll-off.
    """

    def __init__(self, scanner: Scanner, grid: ScanGrid, seed: int) -> None:
        self.scanner, self.seed = scanner, seed
        (_, rows, columns), (_, dy, dx) = grid.shape, grid.spacing
        f = np.hypot(fft.fftfreq(rows, dy)[:, None], fft.rfftfreq(columns, dx)[None, :])
        response = np.sqrt(f * np.exp(-np.square(f / scanner.frequency))) + 0.02
        weight = np.full(response.shape[1], 2.0)
        weight[0] = 1.0
        if columns % 2 == 0:
            weight[-1] = 1.0
        power = float((np.square(response) * weight).sum() / (rows * columns))
        self.response = (response / np.sqrt(power)).astype(np.float32)
        y, x = (np.arange(n) - (n - 1) / 2 for n in (rows, columns))
        self.where = (0.55 + 0.6 * np.exp(-(np.square(y * dy)[:, None] + np.square(x * dx)) / 110**2)).astype(
            np.float32
        )
        self.size = rows, columns
        self.before = self._white(-1)

    def add(self, hu: Array, number: int) -> Array:
        """Slice ``number`` [Y, X] with noise, stronger where the body is thicker."""
        here = self._white(number)
        white = np.float32((1 - NOISE_CORRELATION**2) ** 0.5) * here + np.float32(NOISE_CORRELATION) * self.before
        self.before = here
        noise = fft.irfft2(fft.rfft2(white) * self.response, self.size)
        thick = np.clip((hu[::4, ::4].mean() + 1000) / 550, 0.5, 1.6)
        return hu + noise * self.where * np.float32(self.scanner.sigma * thick)

    def _white(self, number: int) -> Array:
        return np.random.default_rng((self.seed, number + 1)).standard_normal(self.size, np.float32)


def stored(hu: NDArray) -> NDArray[np.int16]:
    """Integer HU in 12 bits."""
    return np.clip(np.rint(hu), *BITS).astype(np.int16)
