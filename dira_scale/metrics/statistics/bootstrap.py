"""The bootstrap over patients: whole patients are drawn with replacement, with all their rows (Efron, Tibshirani 1993).

Rows of a patient are alike. An interval over rows takes them for independent and is too narrow, and scipy's
``bootstrap`` draws rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from scipy.special import ndtr, ndtri

from dira_scale.metrics.statistics.weighted import Statistic

Method = Literal["percentile", "bca"]
K = TypeVar("K")
AT_ONCE = 2**22  # weights of rows: bounds the memory


@dataclass(frozen=True)
class Interval:
    """``level`` of the statistic's interval over test patients, from ``low`` to ``high``.

    ``undefined``: of ``resamples`` those in which the statistic is NaN, as with only negatives; they do not count.
    """

    value: float
    low: float
    high: float
    level: float
    method: str
    patients: int
    resamples: int
    undefined: int


def bootstrap(
    statistic: Statistic,
    patients: Sequence[str] | np.ndarray,
    resamples: int = 2000,
    level: float = 0.95,
    method: Method = "percentile",
    seed: int = 0,
) -> Interval:
    """The interval of ``statistic`` over patients.

    Args:
        statistic: of row weights [b, N] (:mod:`dira_scale.metrics.statistics.weighted`).
        patients: [N], the patient of each row.
        method: ``percentile``, or ``bca``: corrected for bias and skewness by a jackknife over patients (Efron 1987).

    NaN as both ends with fewer than two patients, or where the statistic is NaN.
    """
    members, row = np.unique(patients, return_inverse=True)
    count = len(members)
    value = float(statistic(np.ones((1, len(row))))[0])
    if count < 2 or np.isnan(value):
        return Interval(value, np.nan, np.nan, level, method, count, 0, 0)

    defined = _defined({"": statistic}, row, count, resamples, seed)[""]
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        tails = _corrected(tails, defined, value, _left_out(statistic, row, count))
    low, high = np.quantile(defined, tails) if len(defined) and not np.isnan(tails).any() else (np.nan, np.nan)
    return Interval(value, float(low), float(high), level, method, count, resamples, resamples - len(defined))


def bootstraps(
    statistics: Mapping[K, Statistic], patients: Sequence[str], resamples: int, level: float, seed: int = 0
) -> dict[K, tuple[float, float]]:
    """The ends of each statistic's percentile interval, as :func:`bootstrap`, from the same draws."""
    members, row = np.unique(patients, return_inverse=True)
    tails, ends = [(1 - level) / 2, (1 + level) / 2], dict[K, tuple[float, float]]()
    for key, values in _defined(statistics, row, len(members), resamples, seed).items():
        ends[key] = tuple(np.quantile(values, tails).tolist()) if len(values) else (np.nan, np.nan)
    return ends


def _defined(
    statistics: Mapping[K, Statistic], row: np.ndarray, count: int, resamples: int, seed: int
) -> dict[K, np.ndarray]:
    """The values of each statistic in draws of ``count`` patients, without NaN. ``row``: the patient of each row."""
    generator, values = np.random.default_rng(seed), {key: list[np.ndarray]() for key in statistics}
    for size in _batches(resamples, len(row)):
        numbers = generator.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(numbers.ravel(), minlength=size * count).reshape(size, count)  # each patient is drawn
        for key, statistic in statistics.items():
            values[key].append(statistic(times[:, row].astype(float)))
    joined = {key: np.concatenate(parts) for key, parts in values.items()}
    return {key: each[~np.isnan(each)] for key, each in joined.items()}


def _left_out(statistic: Statistic, row: np.ndarray, count: int) -> np.ndarray:
    """The statistic without each patient, [patients]."""
    values, first = [], 0
    for size in _batches(count, len(row)):
        values.append(statistic((np.arange(first, first + size)[:, None] != row).astype(float)))
        first += size
    return np.concatenate(values)


def _corrected(tails: np.ndarray, values: np.ndarray, value: float, left_out: np.ndarray) -> np.ndarray:
    """The quantiles of ``values`` that BCa takes for ``tails`` (Efron 1987, eq. 6.8); NaN without a spread."""
    left_out = left_out[~np.isnan(left_out)]
    away = left_out.mean() - left_out
    spread = (away**2).sum()
    if spread == 0 or not len(values):
        return np.full(2, np.nan)
    acceleration = (away**3).sum() / (6 * spread**1.5)
    bias = ndtri(((values < value).mean() + (values <= value).mean()) / 2)
    normal = bias + ndtri(tails)
    return ndtr(bias + normal / (1 - acceleration * normal))


def _batches(total: int, rows: int) -> Iterator[int]:
    size = max(1, AT_ONCE // max(1, rows))
    for first in range(0, total, size):
        yield min(size, total - first)
