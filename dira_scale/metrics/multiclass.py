"""Metrics of one label of several classes, of which each row has one."""

from collections.abc import Sequence

import numpy as np
import torch

from dira_scale.metrics.classification import BINS, SPECIFICITY, classification
from dira_scale.metrics.figure import ALL, Figure

UNKNOWN = -100  # the class of a row whose label is not known: that of torch's cross_entropy, and of LabelledImages


def multiclass(
    targets: np.ndarray,
    scores: np.ndarray,
    names: Sequence[str],
    patients: Sequence[str] | np.ndarray,
    specificity: float = SPECIFICITY,
) -> list[Figure]:
    """Each class against the rest as :func:`classification` does; accuracy of each class, and over all classes.

    The answer is the class with the highest score. A class's accuracy is the share of its rows with that answer (its
    recall), NaN without rows. The balanced accuracy is the mean of these over the classes that have rows.

    Args:
        targets: [N], from 0 in the order of ``names``; ``UNKNOWN`` does not count.
        scores: [N, C], probabilities.
        patients: [N].

    Raises:
        ValueError: shapes that do not match, another class, scores outside [0, 1].
    """
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

    targets, scores, patients = np.asarray(targets), np.asarray(scores, float), np.asarray(patients)
    known = targets != UNKNOWN
    if not np.isin(targets[known], range(len(names))).all():
        raise ValueError(f"targets must be classes from 0 to {len(names) - 1}, or {UNKNOWN} (unknown)")
    one_hot = np.where(known[:, None], targets[:, None] == np.arange(len(names)), np.nan)
    figures = classification(one_hot, scores, names, patients, specificity=specificity)

    counts = np.bincount(targets[known], minlength=len(names))
    recall, accuracy, calibration = np.full(len(names), np.nan), np.nan, np.nan
    if known.any():
        score, target = torch.from_numpy(scores[known]), torch.from_numpy(targets[known]).long()
        each = multiclass_accuracy(score, target, len(names), average="none").numpy()
        recall = np.where(counts > 0, each, np.nan)  # torchmetrics says 0 of a class without rows
        accuracy = float(multiclass_accuracy(score, target, len(names), average="micro"))
        calibration = float(multiclass_calibration_error(score, target, len(names), n_bins=BINS))
    unknown, count = int((~known).sum()), len(np.unique(patients[known]))
    for i, name in enumerate(names):
        of_class = len(np.unique(patients[targets == i]))
        figures.append(Figure("accuracy", name, float(recall[i]), int(counts[i]), 0, of_class, int(counts[i])))
    present = int((counts > 0).sum())
    balanced = float(np.nanmean(recall)) if present else np.nan
    return [
        *figures,
        Figure("accuracy", ALL, accuracy, int(known.sum()), unknown, count),
        Figure("balanced accuracy", ALL, balanced, present, len(names) - present, count),
        Figure(
            "calibration error", ALL, calibration, int(known.sum()), unknown, count, None, f"top class, bins={BINS}"
        ),
    ]
