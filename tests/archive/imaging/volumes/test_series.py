"""DICOM series against SimpleITK's reader where they are regular, against geometry worked out by hand where not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from archive.imaging.volumes import make
from nibabel.affines import apply_affine
from scipy.ndimage import map_coordinates

from dira_scale.archive.imaging.rejection import GeometryError, RejectedError
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes.series import Series


def series(paths: list[Path]) -> Series:
    return Series.of(paths[0].parent, sorted(path.name for path in paths))


def by_itk(paths: list[Path]) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(paths[0].parent)))
    return reader.Execute()


def value_at(volume: Volume, ras: np.ndarray) -> np.ndarray:
    """Linearly interpolated values at points [n, 3]."""
    x, y, z = apply_affine(np.linalg.inv(volume.affine), ras).T
    return map_coordinates(volume.voxels.astype(float), [z, y, x], order=1, mode="nearest")


def test_a_regular_series_is_what_itk_reads(tmp_path: Path) -> None:
    """Whatever the files' names and instance numbers say, which are shuffled."""
    paths = make.series(tmp_path, make.smooth((9, 14, 12)))
    volume, image = series(paths).read(make.settings()), by_itk(paths)
    np.testing.assert_array_equal(volume.voxels, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(volume.spacing, image.GetSpacing()[::-1], rtol=1e-6)
    for index in ((0, 0, 0), (11, 0, 0), (3, 13, 8)):
        left, back, head = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(apply_affine(volume.affine, index), (-left, -back, head), atol=1e-4)
    assert volume.voxels.dtype == np.int16 and (volume.low, volume.high) == (-1000, 1000)


def oblique() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right, down and normal, 25 degrees about one axis after 15 about another."""
    a, b = np.radians([25, 15])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    right, down, normal = (about_z @ about_x).T
    return right, down, normal


@pytest.mark.parametrize("kind", ["axial", "feet first", "coronal", "sagittal", "oblique"])
def test_a_point_in_the_patient_keeps_its_value(tmp_path: Path, kind: str) -> None:
    """Every voxel, by plain arithmetic on the header (PS3.3 C.7.6.2.1.1)."""
    x, y, z = np.eye(3)
    right, down, step = {
        "axial": (x, y, 2 * z), "feet first": (x, y, -2 * z), "coronal": (x, -z, 2 * y), "sagittal": (y, -z, 2 * x),
        "oblique": (*oblique()[:2], 2 * oblique()[2]),
    }[kind]  # fmt: skip
    values, corner = make.smooth((6, 9, 8)), np.array([-11.0, 7, 30])
    paths = make.series(tmp_path, values, corner, (right, down), step)
    volume = series(paths).read(make.settings())
    k, r, c = (axis.ravel() for axis in np.indices(values.shape))
    lps = corner + k[:, None] * step + r[:, None] * 0.8 * down + c[:, None] * 0.7 * right
    np.testing.assert_allclose(value_at(volume, lps * [-1, -1, 1]), values.ravel(), atol=1e-2)
    towards = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    assert (np.diag(towards) * [-1, -1, 1] > 0.8).all()  # x to the left, y to the back, z to the head
    assert sorted(volume.voxels.ravel()) == sorted(values.ravel())  # turned, not interpolated


def test_each_slice_has_its_own_rescaling(tmp_path: Path) -> None:
    """As in PET, where every slice is scaled to its own maximum."""
    stored = np.abs(make.smooth((5, 8, 8))) + np.arange(64).reshape(8, 8)
    paths = make.series(tmp_path, stored, Modality="")
    slopes = [0.5, 0.25, 1.75, 2.0, 0.125]
    for path, slope in zip(paths, slopes, strict=True):
        make.change(path, RescaleSlope=slope, RescaleIntercept=3)
    expected = stored * np.array(slopes)[:, None, None] + 3
    volume = series(paths).read(make.settings("PT", range=None))
    restored = volume.voxels * volume.scale + volume.offset
    np.testing.assert_allclose(restored, expected, atol=np.ptp(expected) / 32767)
    np.testing.assert_array_equal(series(paths).read(make.settings("CT")).voxels, np.rint(expected))


def test_padding_becomes_the_smallest_real_value(tmp_path: Path) -> None:
    values = make.smooth((4, 8, 8)) - 24
    outside = np.hypot(*(np.indices((8, 8)) - 3.5)) > 4
    stored = np.where(outside, -2000, values)
    paths = make.series(tmp_path, stored, PixelPaddingValue=-2000)
    for path in paths:
        ds = pydicom.dcmread(path)
        ds["PixelPaddingValue"].VR = "SS"
        ds.save_as(path)
    floor = values[:, ~outside].min()
    np.testing.assert_array_equal(series(paths).read(make.settings()).voxels, np.where(outside, floor, values))


# -- what is wrong with a series


BROKEN: dict[str, Callable[[list[Path]], Any]] = {
    "several slices at one position": lambda p: make.change(p[3], ImagePositionPatient=[-20, -30, 44]),
    "slices of different orientations": lambda p: make.change(p[3], ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
    "slices of different spacings": lambda p: make.change(p[3], PixelSpacing=[0.9, 0.7]),
    "slices of different sizes": lambda p: make.change(p[3], Rows=5),
    "slices without position, orientation or spacing": lambda p: make.change(p[3], ImagePositionPatient=None),
    "slices are missing": lambda p: [p.pop(3).unlink() for _ in range(3)],
    "position, orientation or spacing is impossible": lambda p: make.change(
        p[3], ImageOrientationPatient=[1, 0, 0, 1, 0, 0]
    ),
    "DICOM position, orientation or spacing is": lambda p: make.change(p[3], PixelSpacing=[-0.8, 0.7]),
    "a single slice": lambda p: [p.pop().unlink() for _ in range(8)],
    "less pixel data": lambda p: make.change(p[3], PixelData=b"\0" * 40),
    "DICOM says MR, not CT": lambda p: make.change(p[3], Modality="MR"),
    "zero, negative or absurd": lambda p: [make.change(path, PixelSpacing=[0.0001, 0.7]) for path in p],
    "secondary capture": lambda p: make.change(p[3], SOPClassUID="1.2.840.10008.5.1.4.1.1.7"),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_what_makes_no_volume_has_its_reason(tmp_path: Path, reason: str) -> None:
    paths = make.series(tmp_path, make.smooth((9, 8, 8)))
    BROKEN[reason](paths)
    with pytest.raises(RejectedError, match=reason):
        series(paths).read(make.settings())


def test_a_slice_that_goes_missing_stops_the_run(tmp_path: Path) -> None:
    paths = make.series(tmp_path, make.smooth((9, 8, 8)))
    whole = series(paths)
    paths[4].unlink()
    with pytest.raises(RejectedError) as caught:
        whole.read(make.settings())
    assert isinstance(caught.value.__cause__, FileNotFoundError)  # by which read_input tells it from a bad file


# -- what is irregular


def tilted(degrees: float) -> tuple[Any, np.ndarray]:
    """A gantry tilted about x: rows stay, columns lean, the table moves along z."""
    a = np.radians(degrees)
    return ((1.0, 0, 0), (0, np.cos(a), -np.sin(a))), np.array([0, 0, 3.0])


def scene(lps: np.ndarray) -> np.ndarray:
    """A smooth function of the place in the patient."""
    x, y, z = np.moveaxis(lps, -1, 0)
    return 300 * np.sin(x / 9 + y / 13) + 200 * np.cos(y / 11 - z / 8) + 10 * z


@pytest.mark.parametrize("degrees", [18.5, -12])
def test_gantry_tilt_is_straightened(tmp_path: Path, degrees: float) -> None:
    """Slices of a known scene under tilt: wherever a slice has been, the upright volume shows the scene."""
    turn, step = tilted(degrees)
    right, down = (np.array(axis) for axis in turn)
    corner = np.array([-10.0, -12, 5])
    k, r, c = np.indices((10, 40, 30))[..., None]
    values = np.rint(scene(corner + k * step + r * 0.8 * down + c * 0.7 * right))
    paths = make.series(tmp_path, values, corner, turn, step)
    with pytest.raises(GeometryError, match="gantry tilt"):
        series(paths).read(make.settings(irregular="refuse"))
    volume = series(paths).read(make.settings())
    unit = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(unit.T @ unit, np.eye(3), atol=1e-6)
    normal = np.cross(right, down)
    np.testing.assert_allclose(volume.spacing, (step @ normal, 0.8, 0.7), rtol=1e-6)  # 3 mm times the tilt's cosine
    drift = 9 * abs(step @ down) / 0.8
    assert volume.shape == (10, 40 + int(np.ceil(drift)), 30)
    z, y, x = (axis.ravel() for axis in np.indices(volume.shape))
    lps = apply_affine(volume.affine, np.stack([x, y, z], 1)) * [-1, -1, 1]
    row = (lps - corner - z[:, None] * step) @ down / 0.8  # which row of its own slice a voxel fell on
    inside = (row >= 0) & (row <= 39)
    np.testing.assert_allclose(volume.voxels.ravel()[inside], scene(lps)[inside], atol=4)
    outside = (row < -0.5) | (row > 39.5)
    assert outside.any() and (volume.voxels.ravel()[outside] == values.min()).all()


def test_uneven_distances_are_interpolated_at_the_median(tmp_path: Path) -> None:
    locations = np.array([0, 2.0, 4, 6, 9, 11, 13, 15])
    corner = np.array([-10.0, -12, 5])
    k, r, c = np.indices((8, 12, 10))[..., None]
    values = np.rint(scene(corner + locations[k] * [0, 0, 1] + r * np.array([0, 0.8, 0]) + c * np.array([0.7, 0, 0])))
    paths = make.series(tmp_path, values, corner, step=lambda k: (0, 0, locations[k]))
    with pytest.raises(GeometryError, match="uneven distances"):
        series(paths).read(make.settings(irregular="refuse"))
    volume = series(paths).read(make.settings())
    assert volume.shape == (8, 12, 10) and volume.spacing[0] == pytest.approx(2.0)
    wanted = np.arange(8) * 2.0
    expected = [[np.interp(wanted, locations, values[:, y, x]) for x in range(10)] for y in range(12)]
    np.testing.assert_allclose(volume.voxels, np.moveaxis(expected, -1, 0), atol=0.51)


@pytest.mark.parametrize(
    "distances, missing",
    [
        ([2, 2, 2, 2.4, 2], 0),
        ([2, 2, 4, 2, 2], 1),
        ([2, 2, 6, 2, 4, 2, 2], 3),
        ([1, 1, 1, 1, 1.4, 1, 1.4, 1.6], 1),  # 1.6 are one and a bit
    ],
)
def test_missing_slices_are_counted(tmp_path: Path, distances: list[float], missing: int) -> None:
    locations = np.concatenate([[0], np.cumsum(distances)])
    paths = make.series(tmp_path, make.smooth((len(locations), 8, 8)), step=lambda k: (0, 0, locations[k]))
    assert series(paths).read(make.settings()).filled == missing


def test_rounded_headers_are_regular(tmp_path: Path) -> None:
    """Positions to a hundredth of a millimetre must not cause interpolation."""
    values = make.smooth((30, 8, 8))
    paths = make.series(tmp_path, values, step=lambda k: (0, 0, round(k * 0.6666, 2)))
    volume = series(paths).read(make.settings(irregular="refuse"))
    np.testing.assert_array_equal(volume.voxels, values)


# -- frames of one file


def enhanced(path: Path, values: np.ndarray, order: list[int]) -> Path:
    """An enhanced CT whose frames stand in ``order``; what they share and what is their own in functional groups."""
    ds = pydicom.dcmread(path)
    ds.SharedFunctionalGroupsSequence = make.sequence(
        PixelMeasuresSequence=make.sequence(PixelSpacing=[0.8, 0.7], SliceThickness=2),
        PlaneOrientationSequence=make.sequence(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
    )
    ds.PerFrameFunctionalGroupsSequence = [
        make.sequence(
            PlanePositionSequence=make.sequence(ImagePositionPatient=[-20, -30, 40 + 2 * k]),
            PixelValueTransformationSequence=make.sequence(RescaleSlope=2 if k % 2 else 1, RescaleIntercept=-k),
        )[0]
        for k in order
    ]
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(ds, tag)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    ds.NumberOfFrames, ds.PixelData = len(order), values[order].astype(np.int16).tobytes()
    ds.save_as(path)
    return path


def test_enhanced_frames_are_slices(tmp_path: Path) -> None:
    values, order = make.smooth((6, 9, 8)), [3, 0, 5, 1, 4, 2]
    path = enhanced(make.slice(tmp_path / "x.dcm", values[0].astype(np.int16), (0, 0, 0)), values, order)
    volume = series([path]).read(make.settings())
    k = np.arange(6)[:, None, None]
    np.testing.assert_array_equal(volume.voxels, values * np.where(k % 2, 2, 1) - k)
    np.testing.assert_allclose(volume.affine[:3, 3], (20, 30, 40))


@pytest.mark.parametrize("along", [{"SpacingBetweenSlices": 2.5}, {"GridFrameOffsetVector": [0, 2.5, 5, 7.5]}])
def test_plain_frames_lie_along_the_normal(tmp_path: Path, along: dict[str, Any]) -> None:
    values = make.smooth((4, 9, 8)).astype(np.int16)
    path = make.slice(tmp_path / "x.dcm", values[0], (-20, -30, 40))
    make.change(path, NumberOfFrames=4, PixelData=values.tobytes(), **along)
    volume = series([path]).read(make.settings())
    np.testing.assert_array_equal(volume.voxels, values)
    assert volume.spacing[0] == pytest.approx(2.5)
    make.change(path, ImagePositionPatient=None)
    with pytest.raises(GeometryError, match="without position"):
        series([path]).read(make.settings())


@pytest.mark.parametrize(
    "corner, down, offsets, heights",
    [
        (40, 1, [0, 2.5, 5, 7.5], [40, 42.5, 45, 47.5]),
        (40, 1, [40, 42.5, 45, 47.5], [40, 42.5, 45, 47.5]),
        (0, 1, [0, 2.5, 5, 7.5], [0, 2.5, 5, 7.5]),  # both at once
        (-120.5, 1, [-120.5, -123, -125.5, -128], [-120.5, -123, -125.5, -128]),
        (40, -1, [0, 2.5, 5, 7.5], [40, 37.5, 35, 32.5]),  # along the normal, which points to the feet
        (40, -1, [40, 37.5, 35, 32.5], [40, 37.5, 35, 32.5]),
    ],
)
def test_offsets_count_from_the_first_frame_or_from_zero(
    tmp_path: Path, corner: float, down: int, offsets: list[float], heights: list[float]
) -> None:
    """PS3.3 C.8.8.3.2, a) and b): every voxel at its height."""
    values = make.smooth((4, 9, 8)).astype(np.int16)
    path = make.slice(tmp_path / "x.dcm", values[0], (-20, -30, corner), ((1.0, 0, 0), (0, float(down), 0)))
    make.change(path, NumberOfFrames=4, PixelData=values.tobytes(), GridFrameOffsetVector=offsets)
    volume = series([path]).read(make.settings())
    k, r, c = (axis.ravel() for axis in np.indices(values.shape))
    ras = np.stack([20 - 0.7 * c, 30 - 0.8 * down * r, np.array(heights)[k]], axis=1)
    np.testing.assert_allclose(value_at(volume, ras), values.ravel(), atol=1e-3)


@pytest.mark.parametrize("down, offsets", [((0, 1.0, 0), [10, 12, 14, 16]), ((0, 0, -1.0), [40, 42, 44, 46])])
def test_offsets_that_are_neither_are_refused(tmp_path: Path, down: tuple[float, ...], offsets: list[float]) -> None:
    """They begin at another height than the first frame's, or are heights of frames that are not transverse."""
    values = make.smooth((4, 9, 8)).astype(np.int16)
    path = make.slice(tmp_path / "x.dcm", values[0], (-20, -30, 40), ((1.0, 0, 0), down))
    make.change(path, NumberOfFrames=4, PixelData=values.tobytes(), GridFrameOffsetVector=offsets)
    with pytest.raises(GeometryError, match="offsets of frames that begin neither with zero nor where"):
        series([path]).read(make.settings())
