"""RTSTRUCT as masks: voxel by voxel beside matplotlib's points in polygons, and solids of known volume."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from archive.imaging.volumes import make
from archive.imaging.volumes.test_segments import CORNER, SHAPE, STEP, read
from archive.mutants.valid import rtstruct
from matplotlib.path import Path as Polygon

from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.volumes import read_volume_mask
from dira_scale.archive.imaging.volumes.structure_mask import even_odd

AXIAL = ((1.0, 0, 0), (0, 1.0, 0))


def placed(polygon: np.ndarray, index: float, turn: Any = AXIAL, step: Any = STEP) -> np.ndarray:
    """[n, 2] of column and row of a slice, in the patient's millimetres."""
    right, down = np.array(turn)
    return CORNER + index * np.array(step) + polygon @ np.array([0.7 * right, 0.8 * down])


def circle(radius: float, middle: tuple[float, float] = (13, 11)) -> np.ndarray:
    """In millimetres about a pixel: column and row."""
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    return np.stack([np.cos(angle) / 0.7, np.sin(angle) / 0.8], axis=1) * radius + middle


def inside(polygons: list[np.ndarray]) -> np.ndarray:
    """bool [H, W]: in an odd number of them."""
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    points = np.stack([columns.ravel(), rows.ravel()], axis=1)
    return (
        np.sum([Polygon(p, closed=False).contains_points(points) for p in polygons], axis=0).reshape(SHAPE[1:]) % 2 > 0
    )


@pytest.fixture
def volume(tmp_path: Path) -> Any:
    return read(make.series(tmp_path / "ct", make.smooth(SHAPE), CORNER))


def mask(path: Path, volume: Any, content: bytes, *patterns: str) -> np.ndarray:
    path.write_bytes(content)
    return read_volume_mask(path, volume, patterns)


@pytest.mark.parametrize(
    "turn, step",
    [
        (AXIAL, (0, 0, 2.0)),
        (((-1.0, 0, 0), (0, 1.0, 0)), (0, 0, -2.0)),  # feet first
        (((1.0, 0, 0), (0, 0, -1.0)), (0, 2.0, 0)),  # coronal
        (((0, 0.8, 0.6), (0, 0.6, -0.8)), (-2.0, 0, 0)),  # oblique
    ],
)
def test_voxels_are_inside_by_their_centres(tmp_path: Path, turn: Any, step: Any) -> None:
    """Stars that cross themselves, with holes, and beyond the edge; the voxels of the volume say what is expected."""
    rng, expected = np.random.default_rng(0), np.zeros(SHAPE)
    drawn: dict[str, list[np.ndarray]] = {"first": [], "second": [], "third, which nobody wants": []}
    for index in range(2, 7):
        for value, contours in enumerate(drawn.values(), 1):
            polygons = [rng.uniform(-4, 30, (n, 2)) for n in (3, 9, 17)]
            contours += [placed(polygon, index, turn, step) for polygon in polygons]
            if value < 3:
                expected[index][inside(polygons)] = value
    volume = read(make.series(tmp_path / "ct", expected * 100, CORNER, turn, step))
    found = mask(tmp_path / "rt.dcm", volume, rtstruct(drawn), "FIRST", "sec*")
    np.testing.assert_array_equal(found, volume.voxels // 100)
    assert sorted(np.unique(found)) == [0, 1, 2]


def test_a_ball_with_a_hole_has_its_volume(tmp_path: Path) -> None:
    step, spheres = (0, 0, 1.0), {18: np.arange(-17, 18), 9: np.arange(-8, 9)}  # by radius: the slices
    volume = read(make.series(tmp_path / "ct", make.smooth((41, 64, 64)), CORNER, step=step))
    ball = [placed(circle(np.sqrt(radius**2 - z**2), (32, 32)), 20 + z, step=step)
            for radius, slices in spheres.items() for z in slices]  # fmt: skip
    found = mask(tmp_path / "rt.dcm", volume, rtstruct({"ball": ball}), "*")
    assert found.sum() * 0.7 * 0.8 == pytest.approx(4 / 3 * np.pi * (18**3 - 9**3), rel=0.005)
    assert not found[20, 32, 32] and found[20, 32, 32 + 18]


def test_areas_that_share_an_edge_have_each_pixel_once() -> None:
    def box(top: float, left: float, bottom: float, right: float) -> np.ndarray:
        return np.array([[top, left], [top, right], [bottom, right], [bottom, left]], float)

    whole = even_odd([box(2, 3, 8, 11)], (10, 12))
    assert whole.sum() == 6 * 8 and whole[2:8, 3:11].all()
    np.testing.assert_array_equal(even_odd([box(2, 3, 8, 7), box(2, 7, 8, 11)], (10, 12)), whole)
    ring = [[2, 3], [2, 11], [8, 11], [8, 3], [2, 3], [4, 5], [6, 5], [6, 9], [4, 9], [4, 5]]  # a hole by a keyhole
    assert even_odd([np.array(ring, float)], (10, 12)).sum() == 6 * 8 - 2 * 4


def test_structures_lie_over_each_other_as_the_recipe_says(tmp_path: Path, volume: Any) -> None:
    small, large = [placed(circle(2.9), 4)], [placed(circle(6.9), 4)]
    content = rtstruct({"GTV 1": small, "Lung_L": large, "lung_r": [placed(circle(1.9, (23, 18)), 4)]})
    both = mask(tmp_path / "rt.dcm", volume, content, "lung*", "gtv*")
    np.testing.assert_array_equal(both[4] == 2, inside([circle(2.9)]))
    np.testing.assert_array_equal(both[4] > 0, inside([circle(6.9)]) | inside([circle(1.9, (23, 18))]))
    over = mask(tmp_path / "rt.dcm", volume, content, "gtv*", "lung*")
    np.testing.assert_array_equal(over, (both > 0) * 2)
    with pytest.raises(RejectedError, match="structures that overlap"):
        mask(tmp_path / "rt.dcm", volume, content)
    apart = rtstruct({"a": [placed(circle(1.9), 4)], "b": [placed(circle(1.9, (23, 18)), 4)]})
    assert sorted(np.unique(mask(tmp_path / "rt.dcm", volume, apart))) == [0, 1, 2]


def changed(content: bytes, **tags: Any) -> bytes:
    """With other elements in the first contour."""
    file = pydicom.filebase.DicomBytesIO(content)
    ds = pydicom.dcmread(file)
    for keyword, value in tags.items():
        setattr(ds.ROIContourSequence[0].ContourSequence[0], keyword, value)
    made = pydicom.filebase.DicomBytesIO()
    ds.save_as(made)
    return made.getvalue()


def test_what_does_not_fit_has_its_reason(tmp_path: Path, volume: Any) -> None:
    def refused(content: bytes, reason: str, what: Any = volume) -> None:
        with pytest.raises(RejectedError, match=reason):
            mask(tmp_path / "rt.dcm", what, content, "*")

    at, valid = placed(circle(5), 4), rtstruct({"a": [placed(circle(5), 4)]})
    off, points = "not in the slices of the series", "other numbers of points"
    mask(tmp_path / "rt.dcm", volume, rtstruct({"a": [at + np.array([0, 0, 0.19])]}), "*")  # a tenth of 2 mm
    for shift in (0.21, 1.0, 30.0, -10.0):
        refused(rtstruct({"a": [at + np.array([0, 0, shift])]}), off)
    refused(rtstruct({"a": [at @ [[1, 0, 0.2], [0, 1, 0], [0, 0, 1]]]}), off)
    refused(rtstruct({"a": [at, (at - at.mean(0))[:, [2, 0, 1]] + at.mean(0)]}), off)  # one in another orientation
    refused(changed(valid, NumberOfContourPoints=3), points)
    refused(valid.replace(b"\\", b"x", 1), r"damaged or cut short \(ValueError\)")
    refused(changed(valid, ContourData=["1", "2", "3", "4"]), r"damaged or cut short \(ValueError\)")
    for number in (b"nan", b"inf", b"1e9"):
        drawn = pydicom.dcmread(pydicom.filebase.DicomBytesIO(valid)).ROIContourSequence[0].ContourSequence[0]
        first = str(drawn.ContourData[0]).encode()
        refused(valid.replace(first, number.ljust(len(first)), 1), "impossible positions")
    refused(rtstruct({"b": [at]}, SOPClassUID="1.2.840.10008.5.1.4.1.1.11.1"), "not a segmentation .SEG. or contours")
    gap = make.series(tmp_path / "gap", make.smooth(SHAPE), CORNER, step=lambda k: (0, 0, 2 * (k + (k > 4))))
    refused(valid, "a series that lacks slices", read(gap))
    with pytest.raises(RejectedError, match="without a structure that was asked for"):
        mask(tmp_path / "rt.dcm", volume, valid, "liver")
    assert not mask(tmp_path / "rt.dcm", volume, changed(valid, ContourGeometricType="POINT"), "*").any()


def test_edges_beyond_number_take_bounded_memory() -> None:
    zigzag = np.stack([np.arange(20_000) % 2 * 511.0, np.linspace(0, 511, 20_000)], axis=1)
    tracemalloc.start()
    try:
        even_odd([zigzag], (512, 512))
        assert tracemalloc.get_traced_memory()[1] < 2**29
    finally:
        tracemalloc.stop()
