"""Intervals over patients of all figures of a run at once, from its cases: the same draws for each figure."""

from collections.abc import Mapping, Sequence

import numpy as np

from dira_scale.metrics.cases import LabelCase, MaskCase, label_arrays
from dira_scale.metrics.classification import BINS, SPECIFICITY
from dira_scale.metrics.figure import MEAN
from dira_scale.metrics.multiclass import ALL
from dira_scale.metrics.segmentation import BOTH_EMPTY, IN_CASES
from dira_scale.metrics.statistics.bootstrap import bootstraps
from dira_scale.metrics.statistics.weighted import (
    Statistic,
    average,
    weighted_auroc,
    weighted_average_precision,
    weighted_calibration,
    weighted_mean,
    weighted_ratio,
    weighted_sensitivity,
    with_both,
)

RESAMPLES, LEVEL = 1000, 0.95
LEAST = 10  # patients: an interval from fewer is too narrow
Key = tuple[str, str]  # metric and name of a figure
Ends = tuple[float, float]


def intervals(
    cases: Sequence[LabelCase] | Sequence[MaskCase],
    keys: Sequence[Key],
    exclusive: bool = False,
    thresholds: Mapping[str, float] | None = None,
    scored: Sequence[str] | None = None,
) -> dict[Key, Ends]:
    """Percentile bootstrap over patients, ``LEVEL`` of ``RESAMPLES``; NaN with fewer than ``LEAST`` patients.

    Args:
        cases: all of a split.
        keys: the figures, as :func:`~dira_scale.metrics.classification.classification`, ``multiclass`` and
            ``segmentation`` name them.
        exclusive, thresholds, scored: as these had them.
    """
    if not cases:
        return dict.fromkeys(keys, (float("nan"), float("nan")))
    if isinstance(cases[0], MaskCase):
        statistics, patients = _of_masks([case for case in cases if isinstance(case, MaskCase)], keys)
    else:
        labels = [case for case in cases if isinstance(case, LabelCase)]
        statistics, patients = _of_labels(labels, exclusive, thresholds, scored)
    if len({*patients}) < LEAST:
        return dict.fromkeys(keys, (float("nan"), float("nan")))
    return bootstraps({key: statistics[key] for key in keys}, patients, RESAMPLES, LEVEL)


def _of_labels(
    cases: Sequence[LabelCase],
    exclusive: bool,
    thresholds: Mapping[str, float] | None,
    scored: Sequence[str] | None,
) -> tuple[dict[Key, Statistic], list[str]]:
    targets, scores, names, patients = label_arrays(cases)
    found: dict[Key, Statistic] = {}
    for name, target, score in zip(names, targets.T, scores.T, strict=True):
        found["AUROC", name] = weighted_auroc(target, score)
        found["average precision", name] = weighted_average_precision(target, score)
        found["calibration error", name] = with_both(target, weighted_calibration(target, score, BINS))
        found["sensitivity at specificity", name] = weighted_sensitivity(target, score, SPECIFICITY)
        if thresholds is not None:
            answer = (score >= thresholds[name]).astype(float)
            unknown = np.isnan(target) | np.isnan(thresholds[name])
            found["sensitivity", name] = weighted_mean(np.where(unknown | (target == 0), np.nan, answer))
            found["specificity", name] = weighted_mean(np.where(unknown | (target == 1), np.nan, 1 - answer))
            found["accuracy", name] = weighted_mean(np.where(unknown, np.nan, answer == target))
            found["balanced accuracy", name] = average([found["sensitivity", name], found["specificity", name]])
            for metric in ("sensitivity", "specificity", "accuracy", "balanced accuracy"):
                found[metric, name] = with_both(target, found[metric, name])
    for metric in dict.fromkeys(metric for metric, _ in found):
        found[metric, MEAN] = average([found[metric, name] for name in names if name in (scored or names)])
    if exclusive:
        known = ~np.isnan(targets).any(1)
        truth, answers = targets.argmax(1), scores.argmax(1)
        right = np.where(known, answers == truth, np.nan)
        for number, name in enumerate(names):
            found["accuracy", name] = weighted_mean(np.where(truth == number, right, np.nan))
        found["accuracy", ALL] = weighted_mean(right)
        found["balanced accuracy", ALL] = average([found["accuracy", name] for name in names])
        found["calibration error", ALL] = weighted_calibration(right, scores.max(1), BINS)
    return found, patients


def _of_masks(cases: Sequence[MaskCase], keys: Sequence[Key]) -> tuple[dict[Key, Statistic], list[str]]:
    """Rows are cases; each class has a value of each."""
    of = {(case.key, case.label): case for case in cases}
    rows, names = dict.fromkeys(case.key for case in cases), dict.fromkeys(case.label for case in cases)
    patients = {case.key: case.patient for case in cases}
    found: dict[Key, Statistic] = {}
    for metric in dict.fromkeys(metric for metric, _ in keys):
        for name in names:
            found[metric, name] = _of_class(metric, [of.get((row, name)) for row in rows])
        found[metric, MEAN] = average([found[metric, name] for name in names])
    return found, [patients[row] for row in rows]


def _of_class(metric: str, cases: Sequence[MaskCase | None]) -> Statistic:
    title = metric.removesuffix(IN_CASES)
    if title.startswith("pooled "):
        overlap, both = (
            np.array([value(case) if case else 0 for case in cases], float)
            for value in (lambda case: case.overlap, lambda case: case.predicted + case.present)
        )
        return weighted_ratio(2 * overlap, both) if title.endswith("Dice") else weighted_ratio(overlap, both - overlap)
    base = next(name for name in BOTH_EMPTY if title.startswith(name))
    field = {"Dice": "dice", "IoU": "iou", "HD95": "hd95", "surface Dice": "surface_dice"}[base]
    values = np.full(len(cases), np.nan)
    for number, case in enumerate(cases):
        if case is None or (title != metric and not case.present) or not _has_unit(title, case):
            continue
        values[number] = BOTH_EMPTY[base] if case.empty == "both" else getattr(case, field)
    return weighted_mean(np.where(np.isfinite(values), values, np.nan))


def _has_unit(title: str, case: MaskCase) -> bool:
    if title.startswith("HD95"):
        return title == f"HD95 ({case.unit})"
    return not title.startswith("surface Dice") or title == f"surface Dice at {case.tolerance:g} {case.unit}"
