"""DeLong's variance of areas under the ROC curve, and the test of two of them on the same rows.

DeLong, DeLong, Clarke-Pearson, Biometrics 1988; from ranks in n log n (Sun, Xu, IEEE Signal Processing Letters 2014).
It takes rows for independent. Where patients have several, the bootstrap over patients is the one to use.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata


@dataclass(frozen=True)
class Area:
    """Of one score: the area, its standard error, and the normal interval at ``level``, cut to [0, 1]."""

    auroc: float
    error: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Difference:
    """Of two scores: ``difference`` = second - first, with its standard error; two-sided ``p``. With no error: z is 0
    (p 1) for equal areas, else infinite (p 0)."""

    first: Area
    second: Area
    difference: float
    error: float
    z: float
    p: float


def delong_interval(targets: np.ndarray, scores: np.ndarray, level: float = 0.95) -> Area:
    """The area under the ROC curve. ``targets``: [N], 0, 1 or NaN (does not count); ``scores``: [N].

    All NaN without a positive or a negative; the error is NaN with only one of either.
    """
    areas, covariance = _areas(targets, np.asarray(scores, float)[None])
    return _area(areas[0], covariance[0, 0], level)


def delong_test(targets: np.ndarray, first: np.ndarray, second: np.ndarray, level: float = 0.95) -> Difference:
    """Whether two scores of the same rows have different areas; arguments as of :func:`delong_interval`."""
    areas, covariance = _areas(targets, np.stack([first, second]).astype(float))
    difference = float(areas[1] - areas[0])
    error = _error(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if np.isnan(error):
        z = float("nan")
    elif error < 1e-12:  # of rounding
        z = 0.0 if abs(difference) < 1e-12 else float(np.copysign(np.inf, difference))
    else:
        z = difference / error
    each = [_area(areas[i], covariance[i, i], level) for i in range(2)]
    return Difference(each[0], each[1], difference, error, z, float(2 * norm.sf(abs(z))))


def _areas(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas [k] of ``scores`` [k, N], and their covariance [k, k]."""
    targets = np.asarray(targets, float)
    positive, negative = scores[:, targets == 1], scores[:, targets == 0]
    m, n = positive.shape[1], negative.shape[1]
    if not m or not n:
        return np.full(len(scores), np.nan), np.full((len(scores), len(scores)), np.nan)
    ranks = rankdata(np.concatenate([positive, negative], 1), axis=1)
    # Of each positive the share of negatives below it, of each negative that of positives above it; ties count half.
    below = (ranks[:, :m] - rankdata(positive, axis=1)) / n
    above = 1 - (ranks[:, m:] - rankdata(negative, axis=1)) / m
    if m < 2 or n < 2:
        return below.mean(1), np.full((len(scores), len(scores)), np.nan)
    return below.mean(1), np.atleast_2d(np.cov(below)) / m + np.atleast_2d(np.cov(above)) / n


def _area(area: float, variance: float, level: float) -> Area:
    error = _error(variance)
    half = float(norm.ppf((1 + level) / 2)) * error
    return Area(float(area), error, float(np.clip(area - half, 0, 1)), float(np.clip(area + half, 0, 1)), level)


def _error(variance: float) -> float:
    """Its root; 0 where rounding has made it negative, NaN where it is."""
    return float(np.sqrt(np.maximum(variance, 0.0)))
