"""Maps to boxes to accuracies, on maps that were drawn by hand, with the numbers written out."""

import numpy as np
import pytest

from dira_scale.localize.cases import BoxedImage
from dira_scale.localize.look import LocatedLabel, boxes_above, overlap
from dira_scale.localize.results import cells, figures

SIX = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def drawn(shape: tuple[int, ...], *parts: tuple[tuple[slice, ...], float]) -> np.ndarray:
    map = np.zeros(shape)
    for where, value in parts:
        map[where] = value
    return map


def test_regions_touch_at_corners_and_are_above_the_intensity() -> None:
    map = drawn((6, 8), (np.s_[0:2, 0:3], 61), (np.s_[2, 3], 100), (np.s_[5, 7], 200), (np.s_[4, 0:8:2], 60))
    whole = np.array([0.0, 0, 6, 8])
    assert boxes_above(60, map, whole).tolist() == [[0, 0, 3, 4], [5, 7, 1, 1]]  # 60 itself is not above
    assert boxes_above(180, map, whole).tolist() == [[5, 7, 1, 1]]
    assert boxes_above(200, map, whole).shape == (0, 4)
    volume = drawn((4, 4, 4), (np.s_[0, 0, 0], 70), (np.s_[1, 1, 1], 70), (np.s_[3, 0:2, 2:4], 70))
    # The part from (10, 20, 30) on that is 4 x 8 x 40: 1, 2 and 10 stored voxels each.
    crop = np.array([10.0, 20, 30, 4, 8, 40])
    assert boxes_above(60, volume, crop).tolist() == [[10, 20, 30, 2, 4, 20], [13, 20, 50, 1, 4, 20]]


def test_the_intersection_over_union_by_hand() -> None:
    box = np.array([0.0, 0, 10, 10])
    others = np.array([[0, 0, 10, 10], [0, 5, 10, 10], [5, 5, 10, 10], [0, 10, 10, 10], [2, 2, 2, 5]], float)
    assert overlap(box, others).tolist() == [1, 50 / 150, 25 / 175, 0, 10 / 100]
    blocks = np.array([[1, 0, 0, 2, 2, 2], [2, 0, 0, 2, 2, 2]], float)
    assert overlap(np.array([0.0, 0, 0, 2, 2, 2]), blocks).tolist() == [4 / 12, 0]


# A map of 20 x 20 pixels, each 10 of those that are stored; a box that was drawn by hand, in stored pixels; by
# hand the largest intersection over union, and the intensity of its region.
DRAWN = {
    "a tenth": ("Mass", [(np.s_[0:1, 0:10], 255)], [0, 0, 100, 100], 0.1, 60),
    "three tenths": ("Mass", [(np.s_[0:3, 0:10], 100)], [0, 0, 100, 100], 0.3, 60),
    # above 60: 10 x 10 of 10 x 10, but 20 wide; above 180 half of the box
    "the smaller one is better": (
        "Mass", [(np.s_[0:10, 0:20], 61), (np.s_[0:10, 0:6], 181)], [0, 0, 100, 100], 0.6, 180,
    ),
    "beside it": ("Mass", [(np.s_[12:14, 12:14], 255)], [0, 0, 100, 100], 0.0, None),
    "nothing": ("Nodule", [], [0, 0, 10, 10], 0.0, None),
    # the second of two regions: 4 x 4 = 16 of 4 x 8 + 4 x 4 - 16 = 32
    "one of two": ("Nodule", [(np.s_[0:2, 0:2], 90), (np.s_[10:14, 4:8], 90)], [100, 40, 40, 80], 0.5, 60),
}  # fmt: skip
# Of four masses 0.1, 0.3, 0.6 and 0, of two nodules 0 and 0.5, at each threshold.
MASS, NODULE = [3 / 4, 2 / 4, 2 / 4, 1 / 4, 1 / 4, 1 / 4], [1 / 2, 1 / 2, 1 / 2, 1 / 2, 1 / 2, 0]


def test_accuracies_at_six_thresholds() -> None:
    rows = []
    for number, (name, (label, parts, box, iou, intensity)) in enumerate(DRAWN.items()):
        map, crop = drawn((20, 20), *parts), np.array([0.0, 0, 200, 200])
        predicted = {level: boxes_above(level, map, crop) for level in (60.0, 180.0)}
        case = BoxedImage(number, name, f"p{number % 5}", {label: np.array([box], float)})
        row = LocatedLabel(map, 0.5, crop, predicted).row(case, label, case.boxes[label][0])
        assert (row.iou, row.intensity, row.key) == (iou, intensity, name)
        rows.append(row)
    made = {figure.name: figure for figure in figures(rows, SIX)}
    for threshold, mass, nodule in zip(SIX, MASS, NODULE, strict=True):
        assert made[f"Mass/{threshold}"].value == mass and made[f"Nodule/{threshold}"].value == nodule
        assert made[f"mean/{threshold}"].value == (mass + nodule) / 2  # over labels, not over boxes
    assert made["Mass/0.1"].n == 4 and made["mean/0.1"].n == 2 and made["mean/0.1"].patients == 5
    low, high = made["Mass/0.1"].interval or (1, 0)
    assert low <= 3 / 4 <= high
    assert cells([*made.values()])[1] == ["Mass", "4", "75.00", "50.00", "50.00", "25.00", "25.00", "25.00"]


def test_an_interval_draws_patients_with_all_their_boxes() -> None:
    """Two patients with two boxes each, all right or all wrong: drawn together, means are 0, 1/2 and 1."""
    map, crop = drawn((2, 2), (np.s_[0, 0], 255)), np.array([0.0, 0, 2, 2])
    predicted = {60.0: boxes_above(60, map, crop)}
    rows = []
    for patient, box in (("a", [0.0, 0, 1, 1]), ("a", [0.0, 0, 1, 1]), ("b", [1.0, 1, 1, 1]), ("b", [1.0, 1, 1, 1])):
        case = BoxedImage(0, "k", patient, {})
        rows.append(LocatedLabel(map, 0.5, crop, predicted).row(case, "Mass", np.array(box)))
    figure = figures(rows, [0.5])[0]
    assert (figure.value, figure.interval) == (pytest.approx(0.5), (0, 1))
