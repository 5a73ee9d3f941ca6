"""Detections and candidates against lesions: the free-response ROC curve at the seven rates of LUNA16's script."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dira_scale.metrics.cases import IRRELEVANT, CandidateCase
from dira_scale.metrics.figure import Figure, mean
from dira_scale.metrics.statistics.weighted import Statistic, average, weighted_detected

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


@dataclass(frozen=True)
class Froc:
    """``sensitivities`` at ``RATES``, and ``cpm``, their mean (the challenge's CPM). NaN without lesions."""

    sensitivities: tuple[float, ...]
    cpm: float
    cases: int
    lesions: int


def detection_case(
    key: str, patient: str, scores: np.ndarray, coordinates: np.ndarray, instances: np.ndarray
) -> DetectionCase:
    """Match detections to lesions: one inside a lesion's mask is its hit, several there count once.

    Args:
        scores: [n], above 0, at most 1.
        coordinates: int [n, dimensions], the pixel or voxel of each detection.
        instances: int [*size], 0 = no lesion, 1 … m = the lesions.

    Raises:
        ValueError: shapes that do not match, a detection outside the image, scores outside (0, 1].
    """
    from monai.metrics import compute_fp_tp_probs_nd

    # MONAI keeps hits as float32: other scores as they are would differ from equal ones.
    scores, coordinates = np.asarray(scores, np.float32), np.asarray(coordinates)
    coordinates = coordinates.reshape(len(scores), instances.ndim).astype(int)
    if not ((coordinates >= 0) & (coordinates < instances.shape)).all():
        raise ValueError(f"{key}: a detection lies outside the image of {instances.shape}")
    if not ((scores > 0) & (scores <= 1)).all():
        raise ValueError(f"{key}: scores of detections must be above 0 and at most 1")
    missed, hits, lesions = compute_fp_tp_probs_nd(scores, coordinates, instances.astype(int))
    return DetectionCase(key, patient, tuple(map(float, missed)), tuple(map(float, hits[:lesions])))


def froc(cases: Sequence[DetectionCase]) -> Froc:
    """The curve over all cases, those without a lesion too; sensitivities between its points are interpolated."""
    equal = np.ones((1, len(cases)))
    cpm, *sensitivities = (float(statistic(equal)[0]) for statistic in detected(cases).values())
    return Froc(tuple(sensitivities), cpm, len(cases), sum(len(case.lesions) for case in cases))


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
    equal, figures = np.ones((1, len(cases))), list[Figure]()
    for metric, statistic in detected(cases).items():
        value, about = float(statistic(equal)[0]), f"the {MARKS} highest candidates of a scan"
        figures.append(Figure(metric, rows[0].label, value, len(cases), 0, patients, lesions, about))
    return [*figures, *(mean([figure], patients) for figure in figures)]
