"""The bootstrap over patients: whole patients are drawn with replacement, with all their rows (Efron, Tibshirani 1993).

Rows of a patient are alike. An interval over rows takes them for independent and is too narrow, and scipy's
``bootstrap`` draws rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from dira_scale.dataset.metrics.figure import Figure
from dira_scale.dataset.metrics.statistics.weighted import Statistic, Statistics, unweighted

K = TypeVar("K")
METHOD = "percentile"
AT_ONCE = 2**22  # weights of rows: bounds the memory
RESAMPLES, LEVEL = 1000, 0.95  # of the intervals of a run's figures
MIN_PATIENTS = 10  # patients: an interval from fewer is too narrow
ABOUT: Mapping[str, Any] = {
    "level": LEVEL, "over": "patients", "method": "percentile bootstrap", "resamples": RESAMPLES
}  # fmt: skip


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
    seed: int = 0,
) -> Interval:
    """The percentile interval of ``statistic`` over patients.

    Args:
        statistic: of row weights [b, N] (:mod:`dira_scale.dataset.metrics.statistics.weighted`).
        patients: [N], the patient of each row.

    NaN as both ends with fewer than two patients, or where the statistic is NaN.
    """
    members, row = np.unique(patients, return_inverse=True)
    count = len(members)
    value = unweighted(statistic, len(row))
    if count < 2 or np.isnan(value):
        return Interval(value, np.nan, np.nan, level, METHOD, count, 0, 0)

    defined = _defined({"": statistic}, row, count, resamples, seed)[""]
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(defined, tails) if len(defined) else (np.nan, np.nan)
    return Interval(value, float(low), float(high), level, METHOD, count, resamples, resamples - len(defined))


def with_intervals(figures: Sequence[Figure], statistics: Statistics) -> list[Figure]:
    """Return the figures with their intervals: the percentile bootstrap over patients, ``LEVEL`` of ``RESAMPLES``; None
    with fewer than ``MIN_PATIENTS`` patients, and where a figure or an end has no value."""
    if len({*statistics.patients}) < MIN_PATIENTS:
        return [*figures]
    chosen = {figure.key: statistics.of[figure.key] for figure in figures}
    ends = bootstraps(chosen, statistics.patients, RESAMPLES, LEVEL)

    def has(figure: Figure) -> bool:
        return bool(np.isfinite([figure.value, *ends[figure.key]]).all())

    return [replace(figure, interval=ends[figure.key] if has(figure) else None) for figure in figures]


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
    most = max(1, AT_ONCE // max(1, len(row)))
    for size in (min(most, resamples - first) for first in range(0, resamples, most)):
        numbers = generator.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(numbers.ravel(), minlength=size * count).reshape(size, count)  # each patient is drawn
        for key, statistic in statistics.items():
            values[key].append(statistic(times[:, row].astype(float)))
    joined = {key: np.concatenate(parts) for key, parts in values.items()}
    return {key: each[~np.isnan(each)] for key, each in joined.items()}
