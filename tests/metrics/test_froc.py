"""The FROC curve against a plain count at every threshold, and against MONAI's calls."""

import numpy as np
import pytest
from monai.metrics import compute_fp_tp_probs_nd, compute_froc_curve_data, compute_froc_score

from dira_scale.metrics.froc import RATES, DetectionCase, detection_case, froc

Found = tuple[np.ndarray, np.ndarray, np.ndarray]


def made_up(seed: int, dimensions: int, missed: bool) -> Found:
    """Scores, coordinates and lesions of an image; ``missed``: a lesion has no detection."""
    generator = np.random.default_rng(seed)
    instances = np.zeros((12, 10, 8)[:dimensions], int)
    instances[1:4, 1:4], instances[6:9, 5:8] = 1, 2
    coordinates = generator.integers(0, instances.shape, (15, dimensions))
    coordinates[0] = 2
    coordinates[1, :2] = 7, 6
    scores = np.round(generator.uniform(0.05, 1, len(coordinates)), 1)  # ties
    if missed:
        keep = instances[tuple(coordinates.T)] != 2
        scores, coordinates = scores[keep], coordinates[keep]
    return scores, coordinates, instances


def plain(images: list[Found]) -> list[float]:
    """Sensitivity and false positives an image at each threshold, by counting; then between the points."""
    points = {0.0: 0.0}
    for threshold in sorted({float(np.float32(s)) for scores, _, _ in images for s in scores}, reverse=True):
        hits = alarms = lesions = 0
        for scores, coordinates, instances in images:
            at = instances[tuple(coordinates[scores.astype(np.float32) >= threshold].T)]
            hits, alarms, lesions = hits + len(set(at) - {0}), alarms + int((at == 0).sum()), lesions + instances.max()
        points[alarms / len(images)] = hits / lesions  # of several with one rate the last, which is the highest
    return [float(np.interp(rate, list(points), list(points.values()))) for rate in RATES]


@pytest.mark.parametrize("missed", [True, False], ids=["one missed", "none missed"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_sensitivities_are_counted_at_the_seven_rates(dimensions: int, missed: bool) -> None:
    """Where no lesion is missed, MONAI's curve lacks the point of the lowest score: here it has it."""
    images = [made_up(seed, dimensions, missed) for seed in range(6)]
    cases = [detection_case(str(i), str(i), *image) for i, image in enumerate(images)]
    found = froc(cases)
    assert found.sensitivities == pytest.approx(plain(images))
    assert found.cpm == pytest.approx(np.mean(found.sensitivities)) and len(RATES) == 7
    assert (found.cases, found.lesions) == (6, 12)
    if missed:
        parts = [compute_fp_tp_probs_nd(s.astype(np.float32), at, instances) for s, at, instances in images]
        alarms, hits = (np.concatenate([part[i] for part in parts]) for i in range(2))
        assert found.cpm == compute_froc_score(*compute_froc_curve_data(alarms, hits, 12, 6), RATES)


def test_the_lowest_point_counts_where_nothing_is_missed() -> None:
    """One image, one lesion, found: MONAI alone says 0."""
    case = detection_case("k", "p", np.array([0.7]), np.array([[1, 1]]), np.eye(3, dtype=int) * 0 + 1)
    assert froc([case]).sensitivities == (1.0,) * 7
    assert compute_froc_score(*compute_froc_curve_data(np.array([]), np.array([0.7]), 1, 1), RATES) == 0


def test_cases_without_lesions_or_detections_count() -> None:
    none = DetectionCase("k", "p", (), ())
    assert np.isnan(froc([none]).cpm) and froc([none]).cases == 1
    lesion = detection_case("l", "q", np.array([]), np.zeros((0, 2), int), np.ones((2, 2), int))
    assert lesion == DetectionCase("l", "q", (), (0.0,))
    assert froc([none, lesion]).cpm == 0


@pytest.mark.parametrize(
    ("score", "at", "message"),
    [
        (0.5, (0, 4), "outside the image"),
        (0.5, (-1, 0), "outside the image"),
        (0.0, (0, 0), "above 0"),
        (2, (0, 0), "1"),
    ],
)
def test_detections_that_numpy_would_wrap_are_refused(score: float, at: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detection_case("k", "p", np.array([score]), np.array([at]), np.zeros((4, 4), int))
