"""Smooth random fields independent of the voxel grid: cubic B-splines over a periodic lattice."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dira_scale.phantom.ct.solids import Array

GAIN = (151 / 315) ** -1.5  # a cubic B-spline keeps 151/315 of white noise's variance on each axis


@dataclass(frozen=True)
class RandomField:
    """A random function of position: mean 0, standard deviation 1, structures of about ``pitch`` mm."""

    lattice: Array  # [n, n, n]; axes z, y, x
    pitch: tuple[float, float, float]  # mm in z, y, x

    @classmethod
    def draw(
        cls, rng: np.random.Generator, pitch: float | tuple[float, float, float], nodes: int = 64
    ) -> "RandomField":
        pitch = pitch if isinstance(pitch, tuple) else (pitch, pitch, pitch)
        return cls(rng.standard_normal((nodes,) * 3, np.float32) * np.float32(GAIN), pitch)

    def on(self, z: NDArray, y: NDArray, x: NDArray) -> Array:
        """Values on the grid spanned by three coordinate vectors: [len(z), len(y), len(x)]."""
        weights = (self._weights(line, pitch) for line, pitch in zip((z, y, x), self.pitch, strict=True))
        wz, wy, wx = weights
        planes = np.tensordot(wz, self.lattice, 1)
        return np.matmul(wy, planes) @ wx.T

    def at(self, points: NDArray) -> NDArray[np.float32]:
        """Values at scattered points [..., 3], each (x, y, z)."""
        where = [np.atleast_1d(points[..., 2 - axis]) / self.pitch[axis] for axis in range(3)]
        values = ndimage.map_coordinates(self.lattice, where, order=3, mode="grid-wrap", prefilter=False)
        return values.reshape(points.shape[:-1])

    def _weights(self, line: NDArray, pitch: float) -> Array:
        nodes, at = len(self.lattice), np.asarray(line, float) / pitch
        low = np.floor(at).astype(int)
        t = at - low
        weights = np.zeros((len(at), nodes))
        rows = np.arange(len(at))
        for step, value in (
            (-1, (1 - t) ** 3),
            (0, 4 - 6 * t**2 + 3 * t**3),
            (1, 1 + 3 * t + 3 * t**2 - 3 * t**3),
            (2, t**3),
        ):
            weights[rows, (low + step) % nodes] = value / 6
        return weights.astype(np.float32)
