"""Metrics of labels that are each there or not, of several at once (multi-label): by torchmetrics, label by label.

A row counts for a label where the label is known. torchmetrics raises on NaN, gives an AUROC of 0 to a label without
positives and a sigmoid to scores outside [0, 1]: such labels and scores are kept from it here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from dira_scale.metrics.figure import Figure, mean
from dira_scale.metrics.thresholds import at_specificity

BINS = 15  # of the calibration error: Guo et al., ICML 2017, sec. 2
SPECIFICITY = 0.9


def classification(
    targets: np.ndarray,
    scores: np.ndarray,
    names: Sequence[str],
    patients: Sequence[str] | np.ndarray,
    thresholds: Sequence[float] | np.ndarray | None = None,
    specificity: float = SPECIFICITY,
    scored: Sequence[str] | None = None,
) -> list[Figure]:
    """The figures of each label, then of each metric the mean over the labels that have one.

    A label without a known positive or without a known negative has NaN everywhere.

    Args:
        targets: [N, L], 0 or 1, NaN = unknown.
        scores: [N, L], probabilities in [0, 1].
        patients: [N], the patient of each row.
        thresholds: [L], chosen on the validation split (:func:`~dira_scale.metrics.thresholds.choose_thresholds`): a
            score from the threshold on is a positive answer; NaN: the label has none. Without them there are no
            figures of answers.
        specificity: of the ROC curve's point whose sensitivity is given.
        scored: the names over which means are; None: all.

    Raises:
        ValueError: shapes that do not match, targets other than 0, 1 and NaN, scores outside [0, 1].
    """
    targets, scores, patients = checked(targets, scores, names, patients)
    figures: list[Figure] = []
    for i, name in enumerate(names):
        known = ~np.isnan(targets[:, i])
        truth, score = targets[known, i] == 1, scores[known, i]
        threshold = None if thresholds is None else float(thresholds[i])
        counts = len(truth), int((~known).sum()), len(np.unique(patients[known])), int(truth.sum())
        for metric, (value, convention) in _values(truth, score, threshold, specificity).items():
            figures.append(Figure(metric, name, value, *counts, convention))
    counted = [name in (scored or names) for name in names]
    known_patients = len(np.unique(patients[~np.isnan(targets[:, counted]).all(1)]))
    of_mean = [figure for figure in figures if figure.name in (scored or names)]
    metrics = dict.fromkeys(figure.metric for figure in of_mean)
    return figures + [mean([f for f in of_mean if f.metric == metric], known_patients) for metric in metrics]


def checked(
    targets: np.ndarray, scores: np.ndarray, names: Sequence[str], patients: Sequence[str] | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the arguments as float64 [N, L], float64 [N, L] and [N]. Raises ValueError as :func:`classification`
    does."""
    targets, scores, patients = np.asarray(targets, float), np.asarray(scores, float), np.asarray(patients)
    shape = (len(patients), len(names))
    if targets.shape != shape or scores.shape != shape:
        raise ValueError(f"targets {targets.shape} and scores {scores.shape} must both be [patients, names] = {shape}")
    if not np.isin(targets[~np.isnan(targets)], (0, 1)).all():
        raise ValueError("targets must be 0, 1 or NaN (unknown)")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores must be probabilities in [0, 1]: not logits, not NaN")
    return targets, scores, patients


def _values(
    truth: np.ndarray, scores: np.ndarray, threshold: float | None, specificity: float
) -> dict[str, tuple[float, str]]:
    """Return each metric's value and its convention, of one label's known rows."""
    from torchmetrics.functional import classification as by  # lazy: takes seconds, and comes with an extra

    both = bool(truth.any() and not truth.all())
    score, target = torch.from_numpy(scores), torch.from_numpy(truth).long()

    def value(has: bool, compute: Callable[..., Any], *arguments: Any, **options: Any) -> float:
        return float(compute(*arguments, **options)) if has else np.nan

    values = {
        "AUROC": (value(both, by.binary_auroc, score, target), ""),
        "average precision": (value(both, by.binary_average_precision, score, target), ""),
        "calibration error": (value(both, by.binary_calibration_error, score, target, n_bins=BINS), f"bins={BINS}"),
        "sensitivity at specificity": (
            at_specificity(truth, scores, specificity)[0] if both else np.nan, f"specificity={specificity:g}"
        ),
    }  # fmt: skip
    if threshold is not None:
        # Not torchmetrics' own threshold: it compares with >, its ROC curve with >=.
        answers, at = torch.from_numpy(scores >= threshold).long(), f"threshold={threshold:.4g}"
        has = both and not np.isnan(threshold)
        sensitivity = value(has, by.binary_recall, answers, target)
        rejected = value(has, by.binary_specificity, answers, target)
        values["sensitivity"], values["specificity"] = (sensitivity, at), (rejected, at)
        values["accuracy"] = (value(has, by.binary_accuracy, answers, target), at)
        values["balanced accuracy"] = ((sensitivity + rejected) / 2, at)
    return values
