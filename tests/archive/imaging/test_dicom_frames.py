"""DICOM with several frames: each is an image of its own; and where frames lie in the patient."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from archive import ingest
from archive.imaging.volumes import make
from pydicom.encaps import encapsulate_extended
from pydicom.uid import RLELossless

from dira_scale.archive.imaging.read import DicomFrame, read_image
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.sources.folder import Folder
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels.codecs import decode
from dira_scale.shard.convert import convert

FRAMES = np.random.default_rng(0).integers(100, 4000, (5, 40, 36)).astype(np.uint16)


def several(path: Path, **tags: object) -> Path:
    ingest.dicom(path, FRAMES[0], NumberOfFrames=len(FRAMES), **tags)
    header = pydicom.dcmread(path)
    header.PixelData = FRAMES.tobytes()
    header.save_as(path)
    return path


@pytest.mark.parametrize("coding", ["native", "offsets", "extended"])
def test_each_frame_is_decoded_alone(tmp_path: Path, coding: str) -> None:
    path = several(tmp_path / "x.dcm", WindowCenter=2048, WindowWidth=4096)
    header = pydicom.dcmread(path)
    if coding != "native":
        header.compress(RLELossless)
    if coding == "extended":
        frames = list(pydicom.encaps.generate_frames(header.PixelData, number_of_frames=5))
        header.PixelData, header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    header.save_as(path)
    for number in (4, 0, 2):
        np.testing.assert_array_equal(read_image(path, 16, number=number).pixels, FRAMES[number])
    with pytest.raises(RejectedError, match="no such frame"):
        read_image(path, 16, number=5)


def test_frames_are_samples(tmp_path: Path) -> None:
    several(tmp_path / "images" / "a.dcm", WindowCenter=2048, WindowWidth=4096)
    for number in range(2):
        ingest.dicom(tmp_path / "images" / f"{number}.dcm", FRAMES[number], PatientID=f"P{number}")
    records = {record.name: record.image for record in Folder(str(tmp_path / "images")).records(1)}
    path = tmp_path / "images" / "a.dcm"
    assert {name: image for name, image in records.items() if name.startswith("a.dcm")} == {
        f"a.dcm/{number}": DicomFrame(path, number) for number in range(5)
    }
    config = ingest.recipe("folder", images=str(tmp_path / "images"), bits=16, burned_in="tagged")
    convert(config, tmp_path / "out", workers=1)
    dataset = ShardedDataset.open(tmp_path / "out")
    stored = [decode(dataset.read(row), "png") for row in range(dataset.table.num_rows)]
    assert len(stored) == 7
    assert all(any(np.array_equal(pixels, frame) for pixels in stored) for frame in FRAMES)
    assert sorted(dataset.table.group_by("patient").aggregate([("key", "count")])["key_count"].to_pylist()) == [1, 1, 5]


def test_a_mask_or_boxes_of_an_unknown_frame_are_refused(tmp_path: Path) -> None:
    several(tmp_path / "images" / "a.dcm")
    box = {"file": "a.dcm", "label": "x", "y": 1, "x": 1, "h": 2, "w": 2}
    boxes = ingest.csv(tmp_path / "boxes.csv", [box])
    (record,) = Folder(str(tmp_path / "images"), boxes=str(boxes)).records(1)
    assert record.rejected == "a mask or boxes for DICOM frames: does not say for which frame"


def test_functional_groups_give_each_frame_its_own_window_and_values(tmp_path: Path) -> None:
    """As enhanced CT and MR have them. Places of frames: tests of series."""
    path = several(tmp_path / "x.dcm")
    header = pydicom.dcmread(path)
    header.SharedFunctionalGroupsSequence = make.sequence(
        PixelMeasuresSequence=make.sequence(PixelSpacing=[0.5, 0.75]),
        PixelValueTransformationSequence=make.sequence(RescaleSlope=2, RescaleIntercept=-1000),
    )
    header.PerFrameFunctionalGroupsSequence = [
        make.sequence(FrameVOILUTSequence=make.sequence(WindowCenter=3000 + number, WindowWidth=4001))[0]
        for number in range(5)
    ]
    header.save_as(path)
    image, values = read_image(path, 16, number=3), 2.0 * FRAMES[3] - 1000
    low = 3003 - 0.5 - 2000
    np.testing.assert_array_equal(image.pixels, np.rint(np.clip(values - low, 0, 4000) / 2))
    assert image.spacing == (0.5, 0.75)
