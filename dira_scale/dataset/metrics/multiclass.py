"""Metrics of one label of several classes, of which each row has one."""

from __future__ import annotations

from collections.abc import Sequence

from etils.epy import lazy_imports

from dira_scale.dataset.metrics.classification import ACCURACY, BINS, SHARES, classification
from dira_scale.dataset.metrics.figure import ALL, Figure, Key
from dira_scale.dataset.metrics.statistics.weighted import (
    Statistic,
    average,
    unweighted,
    weighted_calibration,
    weighted_mean,
)

with lazy_imports():
    import numpy as np

UNKNOWN = -100  # the class of a row whose label is not known: that of torch's cross_entropy, and of LabelledImages


def multiclass(
    targets: np.ndarray, scores: np.ndarray, names: Sequence[str], patients: Sequence[str] | np.ndarray
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
    targets, scores, patients = np.asarray(targets), np.asarray(scores, float), np.asarray(patients)
    known = targets != UNKNOWN
    if not np.isin(targets[known], range(len(names))).all():
        raise ValueError(f"targets must be classes from 0 to {len(names) - 1}, or {UNKNOWN} (unknown)")
    one_hot = np.where(known[:, None], targets[:, None] == np.arange(len(names)), np.nan)
    figures = classification(one_hot, scores, names, patients)
    rows = [int((targets == i).sum()) for i in range(len(names))]
    every = int(known.sum()), int((~known).sum()), len(np.unique(patients[known]))
    present = sum(count > 0 for count in rows)
    about: dict[Key, tuple[int, int, int, int | None]] = {
        (ACCURACY, name): (rows[i], 0, len(np.unique(patients[targets == i])), rows[i]) for i, name in enumerate(names)
    }
    about |= {
        (ACCURACY, ALL): (*every, None),
        ("balanced accuracy", ALL): (present, len(names) - present, every[2], None),
        ("calibration error", ALL): (*every, None),
    }
    conventions = {"calibration error": f"top class, bins={BINS}"}
    for key, statistic in class_statistics(targets, scores, names).items():
        value, (count, left_out, some, positives) = unweighted(statistic, len(targets)), about[key]
        convention, share = conventions.get(key[0], ""), key[0] in SHARES
        figures.append(Figure(*key, value, count, left_out, some, positives, convention, share=share))
    return figures


def class_statistics(targets: np.ndarray, scores: np.ndarray, names: Sequence[str]) -> dict[Key, Statistic]:
    """Return the figures over all classes, and the accuracy of each, as functions of row weights; as
    :func:`multiclass` takes them."""
    right = np.where(targets != UNKNOWN, scores.argmax(1) == targets, np.nan)
    found: dict[Key, Statistic] = {
        (ACCURACY, name): weighted_mean(np.where(targets == i, right, np.nan)) for i, name in enumerate(names)
    }
    return found | {
        (ACCURACY, ALL): weighted_mean(right),
        ("balanced accuracy", ALL): average([*found.values()]),
        ("calibration error", ALL): weighted_calibration(right, scores.max(1), BINS),
    }
