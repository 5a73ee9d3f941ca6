"""Masks as DICOM segmentations: pixel by pixel those of the NIfTI output, at the slices' places; what they name."""

import datetime
import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from archive.imaging.volumes.make import UID, settings, smooth
from archive.imaging.volumes.make import series as dicom_series
from archive.imaging.volumes.make import slice as dicom_slice
from needs import need_extra
from predict.test_geometry import conversion

from dira_scale.archive.imaging.volumes import read_volume_mask
from dira_scale.archive.reading import QuarantinedError
from dira_scale.base.errors import UserError
from dira_scale.judge.tasks.masks import Segmentation
from dira_scale.judge.tasks.task import Chosen
from dira_scale.predict import main as predict
from dira_scale.predict.config import KEYS, SOURCE
from dira_scale.predict.dicomseg import DicomImages
from dira_scale.predict.folder import FolderImages
from dira_scale.predict.geometry import Space
from dira_scale.predict.make import Prediction

pytestmark = pytest.mark.usefixtures("extra")
CLASSES = {"liver": 1, "tumour ä": 4, "spleen": 2}
ANGLE = 0.3
OBLIQUE = ((np.cos(ANGLE), np.sin(ANGLE), 0.0), (0.0, 0.0, -1.0))  # coronal, turned about the body's axis
IDENTIFYING = {
    "PatientName": "Doe^Jane", "PatientID": "HOSP-7741903", "PatientBirthDate": "19470302", "PatientSex": "F",
    "StudyInstanceUID": f"{UID}.3.77", "SeriesInstanceUID": f"{UID}.2.77", "FrameOfReferenceUID": f"{UID}.4.77",
    "StudyDate": "20190517", "StudyTime": "101112", "AccessionNumber": "ACC4711", "StudyID": "STUDY7",
    "ReferringPhysicianName": "Roe^Richard", "InstitutionName": "St Elsewhere", "StudyDescription": "of Jane",
    "Manufacturer": "Acme", "StationName": "CT3", "SeriesDescription": "thin cuts", "OperatorsName": "Poe^E",
}  # fmt: skip


@pytest.fixture
def extra() -> None:
    need_extra("dicomseg")


def images_of(
    folder: Path, names: str, dimensions: int = 3, classes: Sequence[str] = (*CLASSES,), **more: Any
) -> DicomImages:
    kind: dict[str, Any] = (
        {"recipe": "volumes", "modality": "CT", "volume": {"range": [-1000, 1000]}}
        if dimensions == 3
        else {"recipe": "folder"}
    )
    images = FolderImages(str(folder), conversion(**kind, min_side=4, **more), dimensions, names, None, 1)
    return DicomImages(images, classes, "tuned", "1.0, weights abc", "identity", names == KEYS)


def labelled(shape: tuple[int, ...]) -> np.ndarray:
    """Half background; a slice of nothing, and a class that is absent."""
    mask = np.random.default_rng(2).choice(np.array([0, 0, 1, 4], np.uint8), shape)
    mask[1] = 0
    return mask


def by_class(mask: np.ndarray) -> np.ndarray:
    return np.stack([mask == value for value in CLASSES.values()])


def frames_of(content: bytes) -> list[tuple[np.ndarray, str, np.ndarray]]:
    """Position, class and pixels of each frame, by pydicom."""
    seg = pydicom.dcmread(io.BytesIO(content))
    labels = {item.SegmentNumber: item.SegmentLabel for item in seg.SegmentSequence}
    pixels = np.reshape(seg.pixel_array, (-1, seg.Rows, seg.Columns))
    found = []
    for group, plane in zip(seg.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        found.append((position, labels[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber], plane))
    return found


@pytest.mark.parametrize("names", [KEYS, SOURCE])
@pytest.mark.parametrize(
    ("turn", "step"), [(OBLIQUE, (-0.5, 1.6, 0)), (((1, 0, 0), (0, 1, 0)), (0, 0, -2.0))], ids=["oblique", "downwards"]
)
def test_pixels_are_those_of_the_nifti_output_in_each_slice(
    turn: Any, step: Any, names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Axes permuted and mirrored by reading, slices in no order of names; the world's coordinates are computed here."""
    if turn is OBLIQUE:
        step = 2 * np.cross(*turn)
    paths = dicom_series(tmp_path / "in", smooth((7, 20, 24)), turn=turn, step=step, **IDENTIFYING)
    images = images_of(tmp_path / "in", names)
    geometry = images.load(0).geometry
    assert isinstance(geometry.geometry, Space)
    mask = labelled(geometry.geometry.shape)
    content = geometry.encoded(by_class(mask))
    (tmp_path / "mask.nii.gz").write_bytes(geometry.geometry.encoded(mask))
    nifti = nibabel.load(tmp_path / "mask.nii.gz")
    to_voxels, voxels = np.linalg.inv(nifti.affine), np.asarray(nifti.dataobj)
    frames, seen = frames_of(content), 0
    for path in paths:
        source = pydicom.dcmread(path)
        right, down = np.reshape(source.ImageOrientationPatient, (2, 3)).astype(float)
        rows, columns = np.indices((source.Rows, source.Columns))
        spacing, corner = [*map(float, source.PixelSpacing)], np.array(source.ImagePositionPatient, float)
        at = corner + rows[..., None] * spacing[0] * down + columns[..., None] * spacing[1] * right
        x_y_z = (at * [-1, -1, 1]) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        np.testing.assert_allclose(x_y_z, np.rint(x_y_z), atol=1e-3)
        expected = voxels[tuple(np.moveaxis(np.rint(x_y_z).astype(int), -1, 0))]
        for name, value in CLASSES.items():
            here = [plane for position, label, plane in frames if label == name and np.allclose(position, corner)]
            assert len(here) == (expected == value).any()  # none of a slice without the class
            seen += len(here)
            np.testing.assert_array_equal(here[0] if here else np.zeros_like(expected), expected == value)
    assert seen == len(frames) > 10

    (tmp_path / "mask.dcm").write_bytes(content)
    from highdicom.seg import segread

    read = segread(tmp_path / "mask.dcm")
    volume = read.get_volume(combine_segments=True, allow_missing_positions=True)
    assert volume.array.max() == 2 and (volume.array > 0).sum() == (mask > 0).sum()
    (algorithm,) = read.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("dira_scale: tuned", "1.0, weights abc")
    source = images.images.items[0].record.image.read(settings())
    numbers = np.select([mask == 1, mask == 4], [1, 2])
    np.testing.assert_array_equal(read_volume_mask(tmp_path / "mask.dcm", source), numbers)  # as `shard` takes it

    first = pydicom.dcmread(tmp_path / "mask.dcm")
    assert (first.ContentDate, first.ContentTime) == (
        ("20190517", "101112") if names == SOURCE else ("19000101", "000000")
    )

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Later":
            return cls(2093, 4, 5, 6, 7, 8)

    with monkeypatch.context() as later:
        later.setattr(datetime, "datetime", Later)
        assert images.load(0).geometry.encoded(by_class(mask)) == content
    whole = content.decode("latin-1")
    instances = [str(pydicom.dcmread(path).SOPInstanceUID) for path in paths]
    given = {str(value) for value in IDENTIFYING.values()} - {"F"}
    if names == KEYS:
        assert not [text for text in (*given, *instances, UID, "Doe", "Jane", "Roe", str(tmp_path)) if text in whole]
        assert (first.PatientID, str(first.PatientName), first.PatientSex) == (images.keys[0], "", "")
        assert not {"ReferencedSeriesSequence", "SourceImageSequence"} & {*first.dir()}
        assert not any("DerivationImageSequence" in group for group in first.PerFrameFunctionalGroupsSequence)
        uids = {first.StudyInstanceUID, first.SeriesInstanceUID, first.SOPInstanceUID, first.FrameOfReferenceUID}
        assert len(uids) == 4 and all(uid.startswith("2.25.") and pydicom.uid.UID(uid).is_valid for uid in uids)
    else:
        (series,) = first.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == IDENTIFYING["SeriesInstanceUID"] != first.SeriesInstanceUID
        assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == {*instances}
        for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "AccessionNumber"):
            assert str(first[name].value) == IDENTIFYING[name]
        assert not [text for text in ("St Elsewhere", "CT3", "Poe", "of Jane") if text in whole]


@pytest.mark.parametrize("names", [KEYS, SOURCE])
@pytest.mark.parametrize("placed", [False, True])
def test_an_image_is_one_plane(placed: bool, names: str, tmp_path: Path) -> None:
    """A radiograph lies nowhere; a slice of a CT alone where it is. Some lack what a header must have."""
    tags: dict[str, Any] = {} if placed else {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1", "Modality": "CR"}
    path = dicom_slice(tmp_path / "in" / "a.dcm", smooth((50, 71)).astype(np.int16), (3, 4, 5), **tags)
    if not placed:
        header = pydicom.dcmread(path)
        del header.ImagePositionPatient, header.ImageOrientationPatient
        header.save_as(path)
    images = images_of(tmp_path / "in", names, 2, max_side=40)
    geometry, mask = images.load(0).geometry, labelled((50, 71))
    content = geometry.encoded(by_class(mask))
    (tmp_path / "a.seg").write_bytes(content)
    from highdicom.seg import segread

    read = segread(tmp_path / "a.seg")
    labels = {item.SegmentNumber: item.SegmentLabel for item in read.SegmentSequence}
    numbers = [group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
               for group in read.PerFrameFunctionalGroupsSequence]  # fmt: skip
    for number, plane in zip(numbers, read.pixel_array, strict=True):
        np.testing.assert_array_equal(plane, mask == CLASSES[labels[number]])
    assert len(numbers) == 2 and geometry.suffix == ".dcm"
    assert ("FrameOfReferenceUID" in read) == placed
    assert [float(mm) for mm in read.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing] == [
        0.8, 0.7
    ]  # fmt: skip
    assert (b"HOSP-7741903" in content) == (UID.encode() in content) == (names == SOURCE)


def test_regions_overlap_in_a_segmentation(tmp_path: Path) -> None:
    """Each has all of its pixels, also those of a later region, which masks of values show alone."""
    dicom_slice(tmp_path / "in" / "a.dcm", smooth((50, 50)).astype(np.int16), (3, 4, 5))
    task = Segmentation({"tumour": [2, 1, 4], "core": [1, 4]})
    images = images_of(tmp_path / "in", KEYS, 2, task.names)
    job: Any = SimpleNamespace(
        trained=SimpleNamespace(size=(50, 50), supervision=task, chosen=Chosen()), images=images, window="whole",
        config=SimpleNamespace(format="dicomseg", batch=1, probabilities=False), device=torch.device("cpu"),
        predicted=lambda x: torch.cat([x > 0.3, x > 0.6], 1).float(), out=tmp_path / "out",
    )  # fmt: skip
    loaded = images.load(0)
    assert Prediction._mask(job, 0, loaded) == {"mask": f"{images.keys[0]}.dcm"}
    frames = frames_of((tmp_path / "out" / "masks" / f"{images.keys[0]}.dcm").read_bytes())
    grey = loaded.stored.image()[0].numpy()
    assert [name for _, name, _ in frames] == ["tumour", "core"] and 0 < (grey > 0.6).sum() < (grey > 0.3).sum()
    for (_, _, plane), least in zip(frames, (0.3, 0.6), strict=True):
        np.testing.assert_array_equal(plane, grey > least)


def test_a_study_of_several_series_is_segmented_on_the_first(tmp_path: Path) -> None:
    """The leader's grid is that of all channels; the other is resampled to it."""
    for n, (name, size) in enumerate({"T1": (7, 20, 24), "T2": (9, 16, 18)}.items()):
        dicom_series(tmp_path / "in" / name, smooth(size, n), SeriesDescription=name, SeriesInstanceUID=f"{UID}.2.{n}")
    series = {"T1": "t1*", "T2": "t2*"}
    images = images_of(tmp_path / "in", SOURCE, _target_="Sequences", series=series)
    geometry = pickle.loads(pickle.dumps(images)).load(0).geometry  # as other processes have them
    mask = labelled((7, 20, 24))
    content = geometry.encoded(by_class(mask))
    (referred,) = pydicom.dcmread(io.BytesIO(content)).ReferencedSeriesSequence
    assert (referred.SeriesInstanceUID, len(referred.ReferencedInstanceSequence)) == (f"{UID}.2.0", 7)
    for position, name, plane in frames_of(content):
        np.testing.assert_array_equal(plane, mask[round((position[2] - 40) / 2)] == CLASSES[name])


def test_an_element_that_a_header_must_not_have_is_left_out(tmp_path: Path) -> None:
    """Also what is no text: pydicom reads long ones of an unknown kind as bytes, and several as a list."""
    wrong: dict[str, Any] = {"PatientBirthDate": "unknown", "PatientSex": "Female", "StudyTime": "around noon"}
    wrong |= {"PatientName": "N" * 70_000, "AccessionNumber": ["A", "B"]}
    for path in dicom_series(tmp_path / "in", smooth((5, 20, 24))):
        header = pydicom.dcmread(path)
        with pydicom.config.disable_value_validation():
            for name, value in wrong.items():
                setattr(header, name, value)
            header["StudyID"] = pydicom.DataElement("StudyID", "UN", b"B" * 70_000)
            header.save_as(path)
    content = images_of(tmp_path / "in", SOURCE).load(0).geometry.encoded(by_class(labelled((5, 20, 24))))
    seg = pydicom.dcmread(io.BytesIO(content))
    assert not any(seg[name].value for name in (*wrong, "StudyID")) and seg.PatientID == "HOSP-7741903"


def even(k: int) -> tuple[float, float, float]:
    return 0, 0, 2.0 * k


@pytest.mark.parametrize(
    ("step", "at"),
    [(lambda k: even(k + (k > 2)), "a gap"), (lambda k: (0, 0, 2.0 * k + 0.8 * (k == 3)), "uneven"),
     (lambda k: (0, 0.6 * k, 2.0 * k), "a tilted gantry")],
)  # fmt: skip
def test_slices_that_were_straightened_are_refused(step: Any, at: str, tmp_path: Path) -> None:
    dicom_series(tmp_path, smooth((7, 20, 24)), step=step)
    with pytest.raises(QuarantinedError) as error:
        images_of(tmp_path, KEYS).load(0)
    assert error.value.reason.startswith("format=dicomseg: slices at uneven distances, missing or shifted"), at


def test_what_is_not_dicom_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 9), np.int16), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(UserError, match="format=dicomseg: no file in images=… is DICOM"):
        images_of(tmp_path, KEYS)
    dicom_series(tmp_path / "in", smooth((5, 20, 24)))
    images = images_of(tmp_path, SOURCE)
    with pytest.raises(QuarantinedError, match="not DICOM"):
        images.load(images.keys.index("a.nii"))
    images.load(1 - images.keys.index("a.nii"))
    for words, printed in (
        (["data.shards=x"], "format=dicomseg: segmentations are made of the headers of images=FOLDER; a dataset has"),
        (["images=x", "probabilities=true"], "probabilities=true: are written as NIfTI"),
    ):
        assert predict(["run=nowhere", f"out={tmp_path / 'out'}", "format=dicomseg", *words]) == 2
        assert printed in capsys.readouterr().err
