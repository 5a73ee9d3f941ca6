"""Smooth curves through points, for tubes."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline


def curve(points: NDArray, samples: int = 16) -> NDArray:
    """Smooth curves [T, samples, ...] through T rows of control points [T, M, ...] (a polyline would gape at bends)."""
    return np.einsum("sm,tm...->ts...", _spline(points.shape[1], samples), points)


@lru_cache
def _spline(knots: int, samples: int) -> NDArray[np.float64]:
    """A cubic spline's weights [samples, knots]: it is linear in its control points."""
    return CubicSpline(np.linspace(0, 1, knots), np.eye(knots))(np.linspace(0, 1, samples))
