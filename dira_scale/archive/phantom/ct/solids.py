"""Solids as signed distances (mm, negative inside), exact near their surface, how they blend, and random fields.

Arguments and results are float32 arrays that broadcast against each other.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating]  # float32 wherever there are many
TINY = np.float32(1e-6)


def oval(x: Array, y: Array, a: Array | float, b: Array | float, square: float = 0.0) -> Array:
    """Distance along the ray from the centre to an oval with semi-axes a, b.

    square: 0 is the ellipse u² + v² = 1, 1 the squircle u⁴ + v⁴ = 1.
    """
    u, v = np.square(x / a), np.square(y / b)
    k = np.sqrt(np.sqrt(np.square(u + v) - np.float32(2 * square) * u * v)) + TINY
    return np.hypot(x, y) * (1 - 1 / k)


def ellipsoid(x: Array, y: Array, z: Array, centre: ArrayLike, axes: ArrayLike, turn: NDArray | None = None) -> Array:
    """Distance to an ellipsoid, to first order: k (k - 1) / |gradient of k| with k = |p / axes|.

    turn: rotation [3, 3] whose rows are the directions of its axes.
    """
    axes = np.asarray(axes, np.float32)
    p = [line - o for line, o in zip((x, y, z), np.asarray(centre, np.float32), strict=True)]
    if turn is not None:
        p = [sum(np.float32(r) * c for r, c in zip(row, p, strict=True)) for row in turn]
    squares = [np.square(c / a) for c, a in zip(p, axes, strict=True)]
    slope = sum(square / a**2 for square, a in zip(squares, axes, strict=True))
    k = np.sqrt(sum(squares)) + TINY
    return k * (k - 1) / (np.sqrt(slope) + TINY)


def facing(long: ArrayLike, beside: ArrayLike = (0.0, 1.0, 0.0)) -> NDArray[np.float64]:
    """The rotation for `ellipsoid` with its first axis along ``long``, its second near ``beside``."""
    first = np.asarray(long, float) / np.linalg.norm(long)
    second = np.asarray(beside, float) - np.dot(beside, first) * first
    second /= np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)])


def union(a: Array, b: Array, blend: float) -> Array:
    """The union, its seam filled over ``blend`` mm (quadratic polynomial minimum, Quilez)."""
    dent = np.maximum(np.float32(blend) - np.abs(a - b), 0)
    return np.minimum(a, b) - dent * dent * np.float32(0.25 / blend)


def intersection(a: Array, b: Array, blend: float) -> Array:
    """The intersection, its edge rounded over ``blend`` mm."""
    return -union(-a, -b, blend)


def difference(a: Array, b: Array, blend: float) -> Array:
    """``a`` without ``b``, the rim rounded over ``blend`` mm."""
    return -union(-a, b, blend)


def ramp(value: Array, low: float, high: float) -> Array:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = np.clip((value - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)


GAIN = (151 / 315) ** -1.5  # a cubic B-spline keeps 151/315 of white noise's variance on each axis


@dataclass(frozen=True)
class RandomField:
    """A random function of position: mean 0, standard deviation 1, structures of about ``pitch`` mm."""

    lattice: Array  # [n, n, n]; axes z, y, x
    pitch: float

    @classmethod
    def draw(cls, rng: np.random.Generator, pitch: float, nodes: int = 64) -> "RandomField":
        return cls(rng.standard_normal((nodes,) * 3, np.float32) * np.float32(GAIN), pitch)

    def on(self, z: NDArray, y: NDArray, x: NDArray) -> Array:
        """Values on the grid spanned by three coordinate vectors: [len(z), len(y), len(x)]."""
        wz, wy, wx = (self._weights(line / self.pitch) for line in (z, y, x))
        return np.matmul(wy, np.tensordot(wz, self.lattice, 1)) @ wx.T

    def _weights(self, at: NDArray) -> Array:
        """Weights of the nodes at positions along an axis, by a cubic B-spline over a lattice that repeats."""
        low, weights = np.floor(at).astype(int), np.zeros((len(at), len(self.lattice)), np.float32)
        t = at - low
        spline = (1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3
        for step, value in enumerate(spline, -1):
            weights[np.arange(len(at)), (low + step) % len(self.lattice)] = value / 6
        return weights
