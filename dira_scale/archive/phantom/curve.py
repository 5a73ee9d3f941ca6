"""Smooth curves through points, for tubes."""

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline


def curve(points: NDArray, samples: int = 16) -> NDArray:
    """Smooth curves [T, samples, ...] through T rows of control points [T, M, ...] (a polyline would gape at bends)."""
    return CubicSpline(np.linspace(0, 1, points.shape[1]), points, axis=1)(np.linspace(0, 1, samples))
