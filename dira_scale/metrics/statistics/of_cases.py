"""The statistics of cases: each figure of a split as a function of row weights (:mod:`.weighted`), for the bootstrap
over patients and for comparisons of networks on the same cases. A kind of rows has one function."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dira_scale.metrics.cases import (
    CandidateCase,
    LabelCase,
    MaskCase,
    NumberCase,
    SurvivalCase,
    label_arrays,
    number_arrays,
    survival_arrays,
)  # fmt: skip
from dira_scale.metrics.classification import label_statistics
from dira_scale.metrics.figure import MEAN, Key
from dira_scale.metrics.froc import detected, scans
from dira_scale.metrics.multiclass import UNKNOWN, class_statistics
from dira_scale.metrics.ordinal import graded
from dira_scale.metrics.regression import number_statistics
from dira_scale.metrics.segmentation import BOTH_EMPTY, IN_CASES
from dira_scale.metrics.statistics.weighted import (
    Statistic,
    average,
    weighted_concordance,
    weighted_mean,
    weighted_ratio,
)
from dira_scale.metrics.survival import CONCORDANCE


@dataclass(frozen=True)
class Statistics:
    """The figures of a split's cases by metric and name. ``keys``, ``patients``: [N], of the rows that are weighted."""

    of: Mapping[Key, Statistic]
    keys: Sequence[str]
    patients: Sequence[str]


def of_labels(
    cases: Sequence[LabelCase],
    exclusive: bool = False,
    thresholds: Mapping[str, float] | None = None,
    scored: Sequence[str] | None = None,
) -> Statistics:
    """All figures of ``classification``, or of ``multiclass`` (``exclusive``), which had the same arguments."""
    targets, scores, names, patients = label_arrays(cases)
    found: dict[Key, Statistic] = {}
    for name, target, score in zip(names, targets.T, scores.T, strict=True):
        of = label_statistics(target, score, None if thresholds is None else thresholds[name])
        found |= {(metric, name): statistic for metric, statistic in of.items()}
    for metric in dict.fromkeys(metric for metric, _ in found):
        found[metric, MEAN] = average([found[metric, name] for name in names if name in (scored or names)])
    if exclusive:
        classes = np.where(np.isnan(targets).any(1), UNKNOWN, targets.argmax(1))
        found |= class_statistics(classes, scores, names)
    return Statistics(found, _keys(cases, len(names)), patients)


def of_candidates(rows: Sequence[CandidateCase]) -> dict[Key, Statistic]:
    """The figures of :func:`~dira_scale.metrics.froc.candidates`, of the weights of the ``rows``."""
    cases, first = scans(rows)

    def of_rows(statistic: Statistic) -> Statistic:  # a bootstrap draws patients, so a scan's rows weigh alike
        return lambda weights: statistic(weights[:, first])

    found = {metric: of_rows(statistic) for metric, statistic in detected(cases).items()}
    return {
        (metric, name): statistic
        for name in {row.label for row in rows} | {MEAN}
        for metric, statistic in found.items()
    }


def of_masks(cases: Sequence[MaskCase], metrics: Iterable[str]) -> Statistics:
    """The figures of ``segmentation`` that ``metrics`` names. Rows are cases; each class has a value of each."""
    of = {(case.key, case.label): case for case in cases}
    rows, names = dict.fromkeys(case.key for case in cases), dict.fromkeys(case.label for case in cases)
    patients = {case.key: case.patient for case in cases}
    found: dict[Key, Statistic] = {}
    for metric in metrics:
        for name in names:
            found[metric, name] = _of_class(metric, [of.get((row, name)) for row in rows])
        found[metric, MEAN] = average([found[metric, name] for name in names])
    return Statistics(found, [*rows], [patients[row] for row in rows])


def of_numbers(cases: Sequence[NumberCase]) -> Statistics:
    """All figures of ``regression``."""
    targets, predictions, names, patients = number_arrays(cases)
    found: dict[Key, Statistic] = {}
    for name, target, prediction in zip(names, targets.T, predictions.T, strict=True):
        of = number_statistics(target, prediction)
        found |= {(metric, name): statistic for metric, statistic in of.items()}
    for metric in dict.fromkeys(metric for metric, _ in found):
        found[metric, MEAN] = average([found[metric, name] for name in names])
    return Statistics(found, _keys(cases, len(names)), patients)


def of_grades(cases: Sequence[NumberCase]) -> Statistics:
    """All figures of ``ordinal``."""
    targets, predictions, names, patients = number_arrays(cases)
    found = {
        (metric, name): statistic
        for metric, statistic in graded(targets[:, 0], predictions[:, 0]).items()
        for name in (*names, MEAN)
    }
    return Statistics(found, _keys(cases, 1), patients)


def of_survival(cases: Sequence[SurvivalCase]) -> Statistics:
    """The figure of ``survival``."""
    statistic = weighted_concordance(*survival_arrays(cases))
    of = {(CONCORDANCE, name): statistic for name in (cases[0].label, MEAN)}
    return Statistics(of, [case.key for case in cases], [case.patient for case in cases])


def _keys(cases: Sequence[LabelCase] | Sequence[NumberCase], each: int) -> list[str]:
    return [case.key for case in cases[:: max(1, each)]]


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
