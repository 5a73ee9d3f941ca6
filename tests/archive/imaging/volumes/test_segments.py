"""DICOM segmentations as masks: voxel by voxel beside the series that they were drawn on, and real ones."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from archive.imaging.volumes import make
from pydicom.data import get_testdata_file

from dira_scale.archive.imaging.dicom.segmentation import read_segments
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.volumes import read_volume_mask
from dira_scale.archive.imaging.volumes.series import Series

SHAPE = (9, 23, 27)  # no slice is a whole number of bytes
CORNER, STEP = np.array([-20.0, -30, 40]), np.array([0, 0, 2.0])


def segmentation(
    path: Path, frames: Sequence[tuple[int, Sequence[float], np.ndarray]],
    turn: Any = ((1.0, 0, 0), (0, 1.0, 0)), kind: str = "BINARY", **tags: Any,
) -> Path:  # fmt: skip
    """A file of frames (segment, position, pixels), as PS3.3 C.8.20 and PS3.5 8.1.1 have them."""
    pixels = np.stack([frame for *_, frame in frames])
    make.slice(path, pixels[0].astype(np.uint16), (0, 0, 0))
    ds = pydicom.dcmread(path)
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(ds, tag)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    ds.Modality, ds.SeriesInstanceUID, ds.SegmentationType, ds.NumberOfFrames = "SEG", "1.2.99", kind, len(pixels)
    bits = 1 if kind == "BINARY" else 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits, bits - 1, 0
    if kind == "FRACTIONAL":
        ds.SegmentationFractionalType, ds.MaximumFractionalValue = "PROBABILITY", 200
    orientation = [round(float(v), 8) for axis in turn for v in axis]
    ds.SharedFunctionalGroupsSequence = make.sequence(
        PixelMeasuresSequence=make.sequence(PixelSpacing=[0.8, 0.7], SliceThickness=2),
        PlaneOrientationSequence=make.sequence(ImageOrientationPatient=orientation),
    )
    ds.PerFrameFunctionalGroupsSequence = [
        make.sequence(
            PlanePositionSequence=make.sequence(ImagePositionPatient=[round(float(v), 6) for v in position]),
            SegmentIdentificationSequence=make.sequence(ReferencedSegmentNumber=segment),
        )[0]
        for segment, position, _ in frames
    ]
    packed = np.packbits(pixels.astype(bool).ravel(), bitorder="little") if bits == 1 else pixels.astype(np.uint8)
    ds.PixelData = packed.tobytes() + b"\0" * (packed.size % 2)
    for tag, value in tags.items():
        setattr(ds, tag, value)
    ds.save_as(path)
    return path


def drawn() -> np.ndarray:
    """Two segments on some slices, three slices empty."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:6, 3:15, 4:20], mask[4:8, 16:22, 1:9] = 1, 2
    mask[3, 5, 6:9] = 0
    return mask


def frames_of(mask: np.ndarray, step: np.ndarray = STEP) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """For each segment the slices that have it, unsorted."""
    there = [(s, CORNER + z * step, mask[z] == s) for s in (1, 2) for z in range(len(mask)) if (mask[z] == s).any()]
    random.Random(1).shuffle(there)
    return there


def read(paths: list[Path]) -> Any:
    return Series.of(paths[0].parent, [path.name for path in paths]).read(make.settings())


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
@pytest.mark.parametrize(
    "turn, step",
    [
        (((1.0, 0, 0), (0, 1.0, 0)), (0, 0, 2.0)),
        (((-1.0, 0, 0), (0, 1.0, 0)), (0, 0, -2.0)),  # feet first
        (((1.0, 0, 0), (0, 0, -1.0)), (0, 2.0, 0)),  # coronal
        (((0, 0.8, 0.6), (0, 0.6, -0.8)), (-2.0, 0, 0)),  # oblique
    ],
)
def test_a_segmentation_is_the_mask_of_its_series(
    tmp_path: Path, turn: Any, step: tuple[float, ...], kind: str
) -> None:
    """The voxels say which segment they are of, so the volume itself tells what its mask must be."""
    mask = drawn()
    volume = read(make.series(tmp_path / "ct", mask * 100.0, CORNER, turn, step))
    frames = frames_of(mask, np.array(step))
    if kind == "FRACTIONAL":  # of 200: a half and more is inside
        some = np.arange(27) % 4
        frames = [(s, at, np.where(inside, 100 + some, 99 - some)) for s, at, inside in frames]
    path = segmentation(tmp_path / "seg.dcm", frames, turn, kind)
    found = read_volume_mask(path, volume)
    np.testing.assert_array_equal(found, volume.voxels // 100)
    assert sorted(np.unique(found)) == [0, 1, 2]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "a DICOM mask that is not a segmentation"),
        ({"SegmentationType": "LABELMAP"}, r"other than BINARY \(1 bit\), FRACTIONAL \(8\), LABELMAP \(8 or 16\)"),
        ({"BitsAllocated": 8}, "other than BINARY|less pixel data"),
        ({"SharedFunctionalGroupsSequence": None}, "without position, orientation or spacing"),
        ({"PerFrameFunctionalGroupsSequence": None}, "without position|not a DICOM segmentation, or damaged"),
        ({"PixelData": b"\0\0"}, "less pixel data|more frames than its length"),
    ],
)
def test_what_is_no_segmentation_has_its_reason(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    volume = read(make.series(tmp_path / "ct", make.smooth(SHAPE), CORNER))
    path = segmentation(tmp_path / "seg.dcm", frames_of(drawn()), **change)
    with pytest.raises(RejectedError, match=reason):
        read_volume_mask(path, volume)


def test_frames_that_do_not_fit_are_not_guessed_at(tmp_path: Path) -> None:
    volume = read(make.series(tmp_path / "ct", make.smooth(SHAPE), CORNER))

    def refused(frames: Any, reason: str, **more: Any) -> None:
        with pytest.raises(RejectedError, match=reason):
            read_volume_mask(segmentation(tmp_path / "seg.dcm", frames, **more), volume)

    frames, grid = frames_of(drawn()), "the mask's grid is not the volume's"
    for off in ([0, 0, 0.5], [0.3, 0, 0], [0, 0, 30]):  # between two slices, between two columns, beyond the last slice
        refused([(s, np.add(at, off), inside) for s, at, inside in frames], grid)
    refused(frames, grid, turn=((1.0, 0, 0), (0, 0, 1.0)))
    refused([(s, at, np.ones((40, 40), bool)) for s, at, _ in frames], grid)
    refused([*frames, (2, CORNER + 3 * STEP, np.ones(SHAPE[1:], bool))], "structures that overlap")
    refused([(256, *rest) for _, *rest in frames], "number is not from 1 to 255")
    refused([(0, *rest) for _, *rest in frames], "number is not from 1")
    gap = make.series(tmp_path / "gap", make.smooth(SHAPE), CORNER, step=lambda k: (0, 0, 2 * (k + (k > 4))))
    path = segmentation(tmp_path / "seg.dcm", frames)
    with pytest.raises(RejectedError, match="a series that lacks slices"):
        read_volume_mask(path, read(gap))


def test_a_larger_frame_that_is_empty_outside_fits(tmp_path: Path) -> None:
    mask = drawn()
    volume = read(make.series(tmp_path / "ct", make.smooth(SHAPE), CORNER))
    wider = [(s, at - [0.7 * 2, 0.8 * 3, 0], np.pad(inside, ((3, 1), (2, 5)))) for s, at, inside in frames_of(mask)]
    np.testing.assert_array_equal(read_volume_mask(segmentation(tmp_path / "s.dcm", wider), volume), mask)


def by_pydicom(path: Path) -> None:
    ds = pydicom.dcmread(path)
    with path.open("rb") as file:
        frames = list(read_segments(file))
    pixels = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns)
    np.testing.assert_array_equal([segments > 0 for _, segments in frames], pixels)
    groups = ds.PerFrameFunctionalGroupsSequence[: len(frames)]  # the file of one frame has kept those of three
    for (plane, segments), group in zip(frames, groups, strict=True):
        np.testing.assert_allclose(plane.position, group.PlanePositionSequence[0].ImagePositionPatient)
        assert segments.max(initial=0) in (0, group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def test_a_real_liver() -> None:
    path = get_testdata_file("liver_1frame.dcm")
    assert path is not None
    by_pydicom(Path(str(path)))
