"""Metrics of labels that are each there or not, of several at once (multi-label), label by label.

A row counts for a label where the label is known.
"""

from __future__ import annotations

from collections.abc import Sequence

from etils.epy import lazy_imports

from dira_scale.dataset.metrics.figure import Figure, mean
from dira_scale.dataset.metrics.statistics.weighted import (
    Statistic,
    average,
    unweighted,
    weighted_auroc,
    weighted_average_precision,
    weighted_calibration,
    weighted_mean,
    weighted_sensitivity,
    with_both,
)

with lazy_imports():
    import numpy as np

BINS = 15  # of the calibration error: Guo et al., ICML 2017, sec. 2
SPECIFICITY = 0.9  # of the ROC curve's point whose sensitivity is given
CONVENTIONS = {"calibration error": f"bins={BINS}", "sensitivity at specificity": f"specificity={SPECIFICITY:g}"}
AUROC, ACCURACY = "AUROC", "accuracy"
ANSWERS = ("sensitivity", "specificity", ACCURACY, "balanced accuracy")
SHARES = (AUROC, ACCURACY)  # shown in percent


def classification(
    targets: np.ndarray,
    scores: np.ndarray,
    names: Sequence[str],
    patients: Sequence[str] | np.ndarray,
    thresholds: Sequence[float] | np.ndarray | None = None,
    scored: Sequence[str] | None = None,
) -> list[Figure]:
    """The figures of each label, then of each metric the mean over the labels that have one.

    A label without a known positive or without a known negative has NaN everywhere.

    Args:
        targets: [N, L], 0 or 1, NaN = unknown.
        scores: [N, L], probabilities in [0, 1].
        patients: [N], the patient of each row.
        thresholds: [L], chosen on the validation split
            (:func:`~dira_scale.dataset.metrics.thresholds.choose_thresholds`): a score from the threshold on is a
            positive answer; NaN: the label has none. Without them there are no figures of answers.
        scored: the names over which means are; None: all.

    Raises:
        ValueError: shapes that do not match, targets other than 0, 1 and NaN, scores outside [0, 1].
    """
    targets, scores, patients = checked(targets, scores, names, patients)
    figures: list[Figure] = []
    for i, name in enumerate(names):
        known, threshold = ~np.isnan(targets[:, i]), None if thresholds is None else float(thresholds[i])
        counts = int(known.sum()), int((~known).sum()), len(np.unique(patients[known])), int((targets[:, i] == 1).sum())
        conventions = CONVENTIONS | dict.fromkeys(
            ANSWERS, f"threshold={threshold:.4g}" if threshold is not None else ""
        )
        for metric, statistic in label_statistics(targets[:, i], scores[:, i], threshold).items():
            value, convention = unweighted(statistic, len(targets)), conventions.get(metric, "")
            figures.append(Figure(metric, name, value, *counts, convention, share=metric in SHARES))
    counted = [name in (scored or names) for name in names]
    known_patients = len(np.unique(patients[~np.isnan(targets[:, counted]).all(1)]))
    of_mean = [figure for figure in figures if figure.name in (scored or names)]
    metrics = dict.fromkeys(figure.metric for figure in of_mean)
    return figures + [mean([f for f in of_mean if f.metric == metric], known_patients) for metric in metrics]


def label_statistics(targets: np.ndarray, scores: np.ndarray, threshold: float | None = None) -> dict[str, Statistic]:
    """Return each figure of a label as a function of row weights; [N] each, as :func:`classification` takes them."""
    found = {
        AUROC: weighted_auroc(targets, scores),
        "average precision": weighted_average_precision(targets, scores),
        "calibration error": weighted_calibration(targets, scores, BINS),
        "sensitivity at specificity": weighted_sensitivity(targets, scores, SPECIFICITY),
    }
    if threshold is not None:
        answer = (scores >= threshold).astype(float)
        unknown = np.isnan(targets) | np.isnan(threshold)
        found["sensitivity"] = weighted_mean(np.where(unknown | (targets == 0), np.nan, answer))
        found["specificity"] = weighted_mean(np.where(unknown | (targets == 1), np.nan, 1 - answer))
        found[ACCURACY] = weighted_mean(np.where(unknown, np.nan, answer == targets))
        found["balanced accuracy"] = average([found["sensitivity"], found["specificity"]])
    return {metric: with_both(targets, statistic) for metric, statistic in found.items()}


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
