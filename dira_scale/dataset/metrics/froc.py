"""Candidates against lesions: the free-response ROC curve at the seven rates of LUNA16's script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etils.epy import lazy_imports

from dira_scale.dataset.metrics.cases import IRRELEVANT, CandidateCase
from dira_scale.dataset.metrics.figure import Figure, mean
from dira_scale.dataset.metrics.statistics.weighted import Statistic, average, unweighted, weighted_detected

with lazy_imports():
    import numpy as np

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives a case: Setio et al., MedIA 2017, sec. 2.4
CPM = "CPM"  # the challenge's name of the mean sensitivity over RATES
MARKS = 100  # candidates of a scan that count: those above the next one, the script's maxNumberOfCADMarks
LEAST = 5e-324  # stands for a probability of 0, as a score of 0 is that of a missed lesion


@dataclass(frozen=True)
class DetectionCase:
    """One case's detections, from which with all others a curve is made: ``false_positives``: their scores;
    ``lesions``: of each the highest score of a detection inside it, 0 = missed."""

    key: str
    patient: str
    false_positives: tuple[float, ...]
    lesions: tuple[float, ...]


def detected(cases: Sequence[DetectionCase]) -> dict[str, Statistic]:
    """Return the CPM, and the sensitivity at each of ``RATES``, by name, as functions of the cases' weights."""
    marks = [
        (score, hit, number)
        for number, case in enumerate(cases)
        for hit, scores in ((False, case.false_positives), (True, case.lesions)) for score in scores
    ]  # fmt: skip
    scores, hits = np.array([mark[0] for mark in marks], float), np.array([mark[1] for mark in marks], bool)
    of, lesions = np.array([mark[2] for mark in marks], int), np.array([len(case.lesions) for case in cases], float)
    at = {f"sensitivity at {rate:g} FP/scan": weighted_detected(scores, hits, of, lesions, rate) for rate in RATES}
    return {CPM: average([*at.values()]), **at}


def scans(rows: Sequence[CandidateCase]) -> tuple[list[DetectionCase], np.ndarray]:
    """Return the scans of candidates, as LUNA16's script matches them, and of each the number of its first row.

    Of a scan with more than ``MARKS`` candidates those above the next highest count. A lesion is hit by the highest of
    those inside it; the others inside it are neither hits nor false positives, nor are irrelevant ones.
    """
    members: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        members.setdefault(row.scan, []).append(number)
    made = []
    for scan, numbers in members.items():
        false_positives, hits = [], dict[str, float]()
        marks = sorted((rows[number] for number in numbers), key=lambda row: -row.probability)
        least = marks[MARKS].probability if len(marks) > MARKS else -1.0
        for row in (mark for mark in marks if mark.probability > least):
            score = max(row.probability, LEAST)
            if not row.lesion:
                false_positives.append(score)
            elif row.lesion != IRRELEVANT:
                hits |= {lesion: max(score, hits.get(lesion, 0)) for lesion in row.lesion.split()}
        first = rows[numbers[0]]
        missed = (0.0,) * (first.lesions - len(hits))
        made.append(DetectionCase(scan, first.patient, tuple(false_positives), (*hits.values(), *missed)))
    return made, np.array([numbers[0] for numbers in members.values()], int)


def candidates(rows: Sequence[CandidateCase]) -> list[Figure]:
    """Return the figures of candidates of one label: CPM, and the sensitivity at each rate; none where no scan has a
    lesion, as where a dataset does not say. ``n`` counts scans, ``positives`` lesions."""
    cases, _ = scans(rows)
    lesions, patients = sum(len(case.lesions) for case in cases), len({case.patient for case in cases})
    if not lesions:
        return []
    figures = list[Figure]()
    for metric, statistic in detected(cases).items():
        value, about = unweighted(statistic, len(cases)), f"the {MARKS} highest candidates of a scan"
        figures.append(Figure(metric, rows[0].label, value, len(cases), 0, patients, lesions, about))
    return [*figures, *(mean([figure], patients) for figure in figures)]
