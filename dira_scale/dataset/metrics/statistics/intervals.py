"""Intervals over patients of all figures of a split at once: the same draws for each figure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dira_scale.dataset.metrics.figure import Figure
from dira_scale.dataset.metrics.statistics.bootstrap import bootstraps
from dira_scale.dataset.metrics.statistics.weighted import Statistics

RESAMPLES, LEVEL = 1000, 0.95
MIN_PATIENTS = 10  # patients: an interval from fewer is too narrow
ABOUT: Mapping[str, Any] = {
    "level": LEVEL,
    "over": "patients",
    "method": "percentile bootstrap",
    "resamples": RESAMPLES,
}


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
