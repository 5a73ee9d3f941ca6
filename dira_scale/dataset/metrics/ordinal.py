"""Metrics of one label of ordered grades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from etils.epy import lazy_imports

from dira_scale.dataset.metrics.figure import Figure, mean
from dira_scale.dataset.metrics.regression import MAE
from dira_scale.dataset.metrics.statistics.weighted import Statistic, unweighted, weighted_kappa, weighted_mean

with lazy_imports():
    import numpy as np

KAPPA, ACCURACY = "kappa", "accuracy"


def ordinal(
    targets: np.ndarray, predictions: np.ndarray, name: str, patients: Sequence[str] | np.ndarray
) -> list[Figure]:
    """Return kappa with quadratic weights (Cohen, Psychol. Bull. 70, 1968), the mean absolute error in grades and the
    accuracy of the label ``name``, then the same as means.

    Kappa has no value where targets and predictions are all of one grade.

    Args:
        targets: [N], grades, NaN = unknown.
        predictions: [N], grades.
        patients: [N].

    Raises:
        ValueError: shapes that do not match, what is no grade.
    """
    targets, predictions, patients = np.asarray(targets, float), np.asarray(predictions, float), np.asarray(patients)
    if not targets.shape == predictions.shape == patients.shape or targets.ndim != 1:
        raise ValueError(f"targets {targets.shape} and predictions {predictions.shape} must be as many as patients")
    known = ~np.isnan(targets)
    given = np.concatenate((targets[known], predictions))
    if not (np.isfinite(given) & (given >= 0) & (given == np.round(given))).all():
        raise ValueError("targets must be grades, 0, 1, 2, …, or NaN (unknown), predictions grades")
    counts = int(known.sum()), int((~known).sum()), len(np.unique(patients[known]))
    figures = []
    for metric, statistic in graded(targets, predictions).items():
        value, convention = unweighted(statistic, len(known)), "quadratic weights" if metric == KAPPA else ""
        figures.append(Figure(metric, name, value, *counts, convention=convention, share=metric != MAE))
    return figures + [mean([figure], counts[-1]) for figure in figures]


def graded(targets: np.ndarray, predictions: np.ndarray) -> Mapping[str, Statistic]:
    """Return each figure as a function of row weights. ``targets``: [N], NaN does not count."""
    return {
        KAPPA: weighted_kappa(targets, predictions),
        MAE: weighted_mean(np.abs(predictions - targets)),
        ACCURACY: weighted_mean(np.where(np.isnan(targets), np.nan, predictions == targets)),
    }
