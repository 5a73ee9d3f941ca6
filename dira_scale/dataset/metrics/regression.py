"""Metrics of numbers that are predicted, such as an age: number by number."""

from __future__ import annotations

from collections.abc import Sequence

from etils.epy import lazy_imports

from dira_scale.dataset.metrics.figure import Figure, mean
from dira_scale.dataset.metrics.statistics.weighted import (
    Statistic,
    unweighted,
    weighted_correlation,
    weighted_mean,
    weighted_r2,
)

with lazy_imports():
    import numpy as np

MAE, RMSE, R2, PEARSON = "MAE", "RMSE", "R2", "Pearson r"
WITHOUT_UNIT = (R2, PEARSON)  # the others are in the number's own unit: of several numbers they have no mean


def regression(
    targets: np.ndarray, predictions: np.ndarray, names: Sequence[str], patients: Sequence[str] | np.ndarray
) -> list[Figure]:
    """The figures of each number, then their means: of several numbers of R2 and Pearson's r alone.

    R2 is 1 - (sum of squared errors) / (sum of squared differences from the targets' mean): 0 is what this mean
    reaches, and worse predictions are below 0. R2 and r have no value where all known targets are the same, r none
    where all predictions are.

    Args:
        targets: [N, L], NaN = unknown.
        predictions: [N, L].
        patients: [N], the patient of each row.

    Raises:
        ValueError: shapes that do not match, an infinite target, a prediction that is not finite.
    """
    targets, predictions, patients = np.asarray(targets, float), np.asarray(predictions, float), np.asarray(patients)
    shape = (len(patients), len(names))
    if targets.shape != shape or predictions.shape != shape:
        raise ValueError(f"targets {targets.shape} and predictions {predictions.shape} must both be {shape}")
    if np.isinf(targets).any() or not np.isfinite(predictions).all():
        raise ValueError("targets must be finite or NaN (unknown), predictions finite")
    figures: list[Figure] = []
    for name, target, prediction in zip(names, targets.T, predictions.T, strict=True):
        known = ~np.isnan(target)
        counts = int(known.sum()), int((~known).sum()), len(np.unique(patients[known]))
        for metric, statistic in number_statistics(target, prediction).items():
            figures.append(Figure(metric, name, unweighted(statistic, len(target)), *counts, share=metric == R2))
    with_any = len(np.unique(patients[~np.isnan(targets).all(1)]))
    of_mean = (MAE, RMSE, R2, PEARSON) if len(names) == 1 else WITHOUT_UNIT
    return figures + [mean([f for f in figures if f.metric == metric], with_any) for metric in of_mean]


def number_statistics(targets: np.ndarray, predictions: np.ndarray) -> dict[str, Statistic]:
    """Return each figure of a number as a function of row weights; [N] each, NaN does not count."""
    square = weighted_mean((predictions - targets) ** 2)
    return {
        MAE: weighted_mean(abs(predictions - targets)),
        RMSE: lambda weights: np.sqrt(square(weights)),
        R2: weighted_r2(targets, predictions),
        PEARSON: weighted_correlation(targets, predictions),
    }
