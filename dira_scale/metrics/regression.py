"""Metrics of numbers that are predicted, such as an age: by torchmetrics, number by number."""

from collections.abc import Sequence

import numpy as np
import torch

from dira_scale.metrics.figure import Figure, mean

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
        values = _values(target[known], prediction[known])
        figures += [Figure(metric, name, value, *counts) for metric, value in values.items()]
    with_any = len(np.unique(patients[~np.isnan(targets).all(1)]))
    of_mean = (MAE, RMSE, R2, PEARSON) if len(names) == 1 else WITHOUT_UNIT
    return figures + [mean([f for f in figures if f.metric == metric], with_any) for metric in of_mean]


def _values(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Return each metric's value, of one number's known rows."""
    from torchmetrics.functional import regression as by  # lazy: takes seconds, and comes with an extra

    if not len(targets):
        return dict.fromkeys((MAE, RMSE, R2, PEARSON), float("nan"))
    prediction, target = torch.from_numpy(predictions), torch.from_numpy(targets)
    varied = bool((targets != targets[0]).any())
    both = varied and bool((predictions != predictions[0]).any())
    return {
        MAE: float(by.mean_absolute_error(prediction, target)),
        RMSE: float(by.mean_squared_error(prediction, target, squared=False)),
        R2: float(by.r2_score(prediction, target)) if varied else float("nan"),
        PEARSON: float(by.pearson_corrcoef(prediction, target)) if both else float("nan"),
    }
