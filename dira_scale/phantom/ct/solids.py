"""Solids as signed distances (mm, negative inside), exact near their surface, and how they blend.

Arguments and results are float32 arrays that broadcast against each other.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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
