"""SEG and RTSTRUCT as the masks of the series that they refer to, by the names of their structures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from archive import ingest
from archive.imaging.volumes import make
from archive.mutants.valid import rtstruct
from archive.sources.conftest import Shards
from archive.sources.test_volumes import COLUMNS

from dira_scale.archive.sources.volumes import Volumes
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError

SHAPE, CORNER = (18, 24, 28), np.array([-20.0, -30, 40])
PLAIN = {"min_side": 8, "secret": False}
WANTED = {"lung": "Lung*", "tumour": "gtv*"}
LUNG, TUMOUR = (slice(2, 9), slice(3, 14), slice(4, 21)), (slice(4, 6), slice(5, 9), slice(6, 9))
BODY = (slice(0, 18), slice(1, 23), slice(1, 27))
Box = tuple[slice, slice, slice]


def ct(folder: Path, number: int, **tags: Any) -> list[Path]:
    """The series ``1.2.NUMBER`` of the patient ``P NUMBER``."""
    return make.series(
        folder, make.smooth(SHAPE, number), CORNER, SeriesInstanceUID=f"1.2.{number}", PatientID=f"P{number}",
        StudyInstanceUID=f"1.3.{number}", **tags,
    )  # fmt: skip


def contours(box: Box) -> list[np.ndarray]:
    """The box's outline in each of its slices, between the voxels."""
    z, y, x = box
    corners = [(x.start, y.start), (x.stop, y.start), (x.stop, y.stop), (x.start, y.stop)]
    at = np.array([(0.7 * (column - 0.5), 0.8 * (row - 0.5), 0) for column, row in corners])
    return [CORNER + at + np.array([0, 0, 2.0 * k]) for k in range(z.start, z.stop)]


def mask_of(**values: Box) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    for number, box in enumerate(values.values(), 1):
        mask[box] = number
    return mask


def write(path: Path, number: int, patient: str | None = None, **boxes: Box) -> None:
    drawn = {name.replace("_", " "): contours(box) for name, box in boxes.items()}
    path.write_bytes(rtstruct(drawn, f"1.2.{number}", patient or f"P{number}"))


def test_each_series_has_the_mask_that_refers_to_it(
    tmp_path: Path, shards: Callable[..., Shards], capsys: pytest.CaptureFixture
) -> None:
    for number in (1, 2, 3, 4):
        ct(tmp_path / f"ct{number}", number)
    write(tmp_path / "one.dcm", 1, External=BODY, GTV_primary=TUMOUR, LUNG_left=LUNG)
    write(tmp_path / "ct2/lung.dcm", 2, lungs=LUNG)  # in the folder of another's slices, and two for one series
    write(tmp_path / "ct1/tumour.dcm", 2, gtv=TUMOUR)
    write(tmp_path / "liver.dcm", 3, liver=LUNG)
    write(tmp_path / "elsewhere.dcm", 9, lung=LUNG)
    write(tmp_path / "stranger.dcm", 3, patient="P1", lung=LUNG)  # some archives give everybody the same UID
    write(tmp_path / "off.dcm", 4, lung=(slice(17, 20), *LUNG[1:]))
    content = (tmp_path / "liver.dcm").read_bytes()
    (tmp_path / "damaged.dcm").write_bytes(content.replace(b"\x06\x30\x22\x00IS", b"\x06\x30\x22\x00C\x7f"))
    made = shards("volumes", images=tmp_path, structures=WANTED, **PLAIN)
    both = mask_of(lung=LUNG, tumour=TUMOUR)
    for number in (1, 2):
        np.testing.assert_array_equal(made.mask(f"ct{number} 1.2.{number}"), both)
    assert made.mask("ct3 1.2.3") is None and len(made) == 3
    assert made.rejected("ct4 1.2.4", "damaged.dcm") == {
        "ct4 1.2.4": "RTSTRUCT contours that are not in the slices of the series",
        "damaged.dcm": "DICOM header is damaged (ValueError)",
    }
    printed = capsys.readouterr().out
    assert "not used: 2 x SEG or RTSTRUCT of a series that is not there, or refused (elsewhere.dcm …)" in printed
    assert (
        "not used: 1 x SEG or RTSTRUCT without a structure that was asked for (recipe.structures) (liver.dcm)"
        in printed
    )
    assert "1 series of 4 without a mask" in printed
    assert made.dataset.info.recipe["structures"] == WANTED  # what the values are
    made = shards("volumes", images=tmp_path, **PLAIN)
    assert all(made.mask(f"ct{number} 1.2.{number}") is None for number in (1, 2, 3, 4))
    assert "not used: 8 x DICOM RTSTRUCT, which is no image" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segmentations_that_highdicom_writes(tmp_path: Path, shards: Callable[..., Shards], kind: str) -> None:
    hd = pytest.importorskip("highdicom")
    if kind not in {each.value for each in hd.seg.SegmentationTypeValues}:
        pytest.skip(f"this highdicom writes no {kind}")
    from pydicom.sr.codedict import codes

    more = dict.fromkeys(("StudyID", "AccessionNumber", "PatientName"), "1")
    more |= dict.fromkeys(("StudyDate", "PatientBirthDate"), "20200101") | {"StudyTime": "101112", "PatientSex": "F"}
    paths = ct(tmp_path / "ct", 1, FrameOfReferenceUID="1.2.77", ReferringPhysicianName="A", **more)
    source = sorted((pydicom.dcmread(path) for path in paths), key=lambda ds: float(ds.ImagePositionPatient[2]))
    drawn = hd.AlgorithmIdentificationSequence("drawn", codes.DCM.ArtificialIntelligence, "1")
    segments = [
        hd.seg.SegmentDescription(k, name, codes.SCT.Organ, codes.SCT.Organ, "AUTOMATIC", drawn)
        for k, name in enumerate(("Body", "GTV", "Lung right", "Lung left"), 1)
    ]
    left, right = (LUNG[0], LUNG[1], slice(4, 12)), (LUNG[0], LUNG[1], slice(12, 21))
    pixels = mask_of(body=BODY, tumour=TUMOUR, right=right, left=left)
    pixels[TUMOUR] = 2
    made = hd.seg.Segmentation(
        source, pixels, kind, segments, hd.UID(), 1, hd.UID(), 1, "maker", "model", "1", "0", omit_empty_frames=False
    )
    made.save_as(tmp_path / "seg.dcm")
    found = shards("volumes", images=tmp_path, structures=WANTED, **PLAIN).mask("ct 1.2.1")
    np.testing.assert_array_equal(found, mask_of(lung=LUNG, tumour=TUMOUR))


def test_a_table_may_name_contours(tmp_path: Path, shards: Callable[..., Shards]) -> None:
    """Then these are the mask, whatever they refer to; without names values are the numbers of the structures."""
    ct(tmp_path / "images/ct1", 1)
    ct(tmp_path / "images/ct2", 2)
    write(tmp_path / "images/named.dcm", 9, first=TUMOUR, GTV=(slice(10, 12), *TUMOUR[1:]))
    write(tmp_path / "images/other.dcm", 2, GTV=TUMOUR)
    rows = [{"file": "ct1", "patient": "P1", "split": "", "mask": "named.dcm"},
            {"file": "ct2", "patient": "P2", "split": "", "mask": ""}]  # fmt: skip
    keys = {"images": tmp_path / "images", "labels": ingest.csv(tmp_path / "list.csv", rows), **PLAIN}
    columns = {**COLUMNS, "split": None}
    made = shards("volumes", columns=columns, **keys)
    expected = mask_of(first=TUMOUR, second=(slice(10, 12), *TUMOUR[1:]))
    np.testing.assert_array_equal(made.mask("ct1 1.2.1"), expected)
    made = shards("volumes", columns=columns, structures={"tumour": "gtv"}, **keys)
    np.testing.assert_array_equal(made.mask("ct1 1.2.1"), expected == 2)
    np.testing.assert_array_equal(made.mask("ct2 1.2.2"), mask_of(tumour=TUMOUR))
    made = shards("volumes", columns=columns, structures={"liver": "liver"}, **keys)
    reason = "a SEG or RTSTRUCT without a structure that was asked for (recipe.structures)"
    assert made.rejected("ct1 1.2.1") == {"ct1 1.2.1": reason} and made.mask("ct2 1.2.2") is None


def test_a_series_of_several_volumes_has_no_mask(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for echo in (1, 2):
        ct(tmp_path / f"echo{echo}", 1, EchoNumbers=echo)
    write(tmp_path / "rt.dcm", 1, lung=LUNG)
    records = list(Volumes(str(tmp_path), structures={"lung": "lung"}).records(1))
    assert [(record.mask, record.rejected) for record in records] == [(None, None)] * 2
    assert (
        "1 x SEG or RTSTRUCT of a series that is several volumes (echoes, phases, studies) (rt.dcm)"
        in capsys.readouterr().out
    )


def test_a_refused_series_leaves_its_mask_to_no_other_of_its_uid(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A study's contours would be another's mask in an archive that gives all patients one name and one UID."""
    for path in ct(tmp_path / "a", 1):
        slice_ = pydicom.dcmread(path)
        slice_.StudyInstanceUID = "1.3.2"
        del slice_.PixelSpacing
        slice_.save_as(path)
    ct(tmp_path / "b", 1)
    write(tmp_path / "a.dcm", 1, lung=LUNG)
    records = list(Volumes(str(tmp_path), structures={"lung": "lung"}).records(1))
    assert sorted((record.mask, record.rejected is None) for record in records) == [(None, False), (None, True)]
    assert "several volumes (echoes, phases, studies) (a.dcm)" in capsys.readouterr().out


def test_a_pattern_that_nothing_matches_ends_the_listing(tmp_path: Path) -> None:
    ct(tmp_path / "ct", 1)

    def refused(reason: str, given: Any) -> None:
        with pytest.raises((UserError, ArgumentError), match=reason):
            list(Volumes(str(tmp_path), structures=given).records(1))

    refused(r"structures.lung: expected a structure of a SEG or RTSTRUCT in .*; there is none, got 'Lung\*'$", WANTED)
    many = {f"other {k}": contours(TUMOUR)[:1] for k in range(50)}
    (tmp_path / "rt.dcm").write_bytes(rtstruct({**many, "Lung": contours(LUNG)}, "1.2.1", "P1"))
    refused(r"structures.tumour: expected a structure .*; there are other 0, .*other 6, other 7, got 'gtv\*'$", WANTED)
    for given in ({}, {"lung": ""}, ["Lung*"], {"lung": ["a"]}, {str(k): "*" for k in range(256)}):
        refused("structures: expected a pattern for each of at most 255 values, as '{lung:", given)
