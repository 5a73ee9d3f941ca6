"""Detections against lesions: the free-response ROC curve, by MONAI's functions, at LUNA16's seven rates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives a case: Setio et al., MedIA 2017, sec. 2.4


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
    from monai.metrics import compute_froc_curve_data, compute_froc_score

    lesions = np.array([score for case in cases for score in case.lesions])
    if not len(lesions):
        return Froc((float("nan"),) * len(RATES), float("nan"), len(cases), 0)
    # MONAI drops the lowest score, as it is that of missed lesions. Where none is missed, this 0 is dropped instead.
    false_positives = np.array([0.0, *(score for case in cases for score in case.false_positives)])
    curve = compute_froc_curve_data(false_positives, lesions, len(lesions), len(cases))
    sensitivities = tuple(float(compute_froc_score(*curve, (rate,))) for rate in RATES)
    return Froc(sensitivities, float(compute_froc_score(*curve, RATES)), len(cases), len(lesions))
