"""Solids as signed distances (mm, negative inside), exact near their surface, and how they blend; smooth
random fields that roughen them.

Arguments and results are float32 arrays that broadcast against each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.floating]  # float32 wherever there are many
TINY = np.float32(1e-6)


def oval(x: Array, y: Array, a: Array | float, b: Array | float, square: float = 0.0) -> Array:
    """Distance along the ray from the centre to an oval with semi-axes a, b.

    square: 0 is the ellipse u² + v² = 1, 1 the squircle u⁴ + v⁴ = 1.
    """
    u, v = np.square(x / a), np.square(y / b)
    k = np.square(u + v)
    if square:
        k -= np.float32(2 * square) * u * v
    k = np.sqrt(np.sqrt(k)) + TINY
    return np.hypot(x, y) * (1 - 1 / k)


def ellipsoid(
    x: Array, y: Array, z: Array, centre: Sequence[float], axes: Sequence[float], turn: NDArray | None = None
) -> Array:
    """Distance to an ellipsoid, to first order: k (k - 1) / |gradient of k| with k = |p / axes|.

    turn: rotation [3, 3] whose rows are the directions of its axes.
    """
    p = [x - np.float32(centre[0]), y - np.float32(centre[1]), z - np.float32(centre[2])]
    if turn is not None:
        p = [sum(np.float32(r) * c for r, c in zip(row, p, strict=True)) for row in turn]  # type: ignore[misc]
    k = slope = np.float32(0)
    for c, a in zip(p, axes, strict=True):
        square = np.square(c * np.float32(1 / a))
        k = k + square
        slope = slope + square * np.float32(1 / a**2)
    k = np.sqrt(k) + TINY
    return k * (k - 1) / (np.sqrt(slope) + TINY)


def facing(long: Sequence[float], beside: Sequence[float] = (0.0, 1.0, 0.0)) -> NDArray[np.float64]:
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
    pitch: tuple[float, float, float]  # mm in z, y, x

    @classmethod
    def draw(
        cls, rng: np.random.Generator, pitch: float | tuple[float, float, float], nodes: int = 64
    ) -> "RandomField":
        pitch = pitch if isinstance(pitch, tuple) else (pitch, pitch, pitch)
        return cls(rng.standard_normal((nodes,) * 3, np.float32) * np.float32(GAIN), pitch)

    def on(self, z: NDArray, y: NDArray, x: NDArray) -> Array:
        """Values on the grid spanned by three coordinate vectors: [len(z), len(y), len(x)]."""
        nodes, weights = len(self.lattice), []  # of the nodes, for each axis
        for line, pitch in zip((z, y, x), self.pitch, strict=True):
            at = np.asarray(line, float) / pitch
            low = np.floor(at).astype(int)
            t = at - low
            weight = np.zeros((len(at), nodes))
            for step, value in (
                (-1, (1 - t) ** 3),
                (0, 4 - 6 * t**2 + 3 * t**3),
                (1, 1 + 3 * t + 3 * t**2 - 3 * t**3),
                (2, t**3),
            ):
                weight[np.arange(len(at)), (low + step) % nodes] = value / 6
            weights.append(weight.astype(np.float32))
        wz, wy, wx = weights
        planes = np.tensordot(wz, self.lattice, 1)
        return np.matmul(wy, planes) @ wx.T

    def at(self, points: NDArray) -> NDArray[np.float32]:
        """Values at scattered points [..., 3], each (x, y, z)."""
        where = [np.atleast_1d(points[..., 2 - axis]) / self.pitch[axis] for axis in range(3)]
        values = ndimage.map_coordinates(self.lattice, where, order=3, mode="grid-wrap", prefilter=False)
        return values.reshape(points.shape[:-1])
