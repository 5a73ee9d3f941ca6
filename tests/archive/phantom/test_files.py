"""The files: read strictly and by other libraries, with the attributes that the standard demands, in every coding."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, DigitalXRayImageStorageForPresentation

from dira_scale.archive.phantom.ct import dicom as ct
from dira_scale.archive.phantom.ct.dataset import write_metaimage, write_nifti
from dira_scale.archive.phantom.ct.scanner import ScanGrid, Scanner
from dira_scale.archive.phantom.ct.study import Study
from dira_scale.archive.phantom.cxr import dataset as cxr
from dira_scale.archive.phantom.cxr.view import View
from dira_scale.archive.phantom.dicom import IDENTIFYING, SYNTAXES, Identity, uid

# PS3.3 tables A.3-1 (CT) and A.26-1 (DX) and the modules they name: type 1 (a value), type 2 (present, may be empty).
REQUIRED = """SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality ImageType PixelSpacing
    SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation
    PixelData RescaleIntercept RescaleSlope WindowCenter WindowWidth InstanceNumber""".split()  # noqa: SIM905
PRESENT = """PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID
    AccessionNumber SeriesNumber KVP Manufacturer""".split()  # noqa: SIM905
REQUIRED_CT = ["FrameOfReferenceUID", "ImageOrientationPatient", "ImagePositionPatient"]
PRESENT_CT = ["PositionReferenceIndicator", "SliceThickness", "AcquisitionNumber", "PatientPosition"]
REQUIRED_DX = """PresentationIntentType PatientOrientation AnatomicRegionSequence ImageLaterality
    PixelIntensityRelationship PixelIntensityRelationshipSign RescaleType PresentationLUTShape LossyImageCompression
    BurnedInAnnotation DetectorType ImagerPixelSpacing""".split()  # noqa: SIM905
PRESENT_DX = ["AcquisitionContextSequence", "ViewPosition", "PositionerType"]


@pytest.fixture(scope="module")
def study() -> Study:
    rng = np.random.default_rng(0)
    grid = ScanGrid((9, 40, 36), (2.5, 0.8203, 0.8203), (-151.4062, -302.1719, -1187.25))
    voxels = rng.integers(-1024, 3072, grid.shape).astype(np.int16)
    mask = rng.integers(0, 3, grid.shape).astype(np.uint8)
    return Study(voxels, mask, grid, (), Scanner("SOFT", 1.2, 10, 0.4), True)


def series(folder: Path, study: Study, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    ct.write(folder, study, "thorax", Identity.draw(rng, seed, "F", 61), 61, 0, f"key {seed}", rng)
    return folder


def radiograph(seed: int) -> tuple[np.ndarray, Dataset, Identity]:
    rng = np.random.default_rng(seed)
    pixels, identity = rng.integers(0, 4096, (64, 64)).astype(np.uint16), Identity.draw(rng, seed, "F", 61)
    coded = cxr.as_dicom(pixels, View(64), identity, 61, 2, f"key {seed}", rng)
    return pixels, pydicom.dcmread(io.BytesIO(coded), force=False), identity


def check_attributes(ds: Dataset, required: list[str], present: list[str]) -> None:
    assert not [keyword for keyword in REQUIRED + required if keyword not in ds or ds[keyword].is_empty]
    assert not [keyword for keyword in PRESENT + present if keyword not in ds]
    assert all(UID(value).is_valid for value in (ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID))
    assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    for keyword in IDENTIFYING:  # long enough to be searched for
        assert len(str(ds[keyword].value)) >= 6, keyword


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_radiographs_are_read_strictly_and_exactly(syntax: UID, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.RAISE)
    monkeypatch.setattr(cxr, "SYNTAX_SHARE", [float(s == syntax) for s in SYNTAXES])
    seen = set()
    for seed in range(12):
        pixels, ds, identity = radiograph(seed)
        assert ds.file_meta.TransferSyntaxUID == syntax and ds.SOPClassUID == DigitalXRayImageStorageForPresentation
        assert all(element.value is not None or element.is_empty for element in ds.iterall())  # each is parsed
        inverted = ds.PhotometricInterpretation == "MONOCHROME1"
        np.testing.assert_array_equal(ds.pixel_array, 4095 - pixels if inverted else pixels)
        check_attributes(ds, REQUIRED_DX, PRESENT_DX)
        assert ds.PresentationLUTShape == ("INVERSE" if inverted else "IDENTITY")
        assert (ds.BitsAllocated, ds.BitsStored, ds.HighBit) == (16, 12, 11)
        private = [element for element in ds if element.tag.is_private and not element.tag.is_private_creator]
        assert any(identity.number in str(element.value) for element in private)
        seen.add(inverted)
    assert seen == {False, True}


def test_three_formats_hold_the_same_voxels_in_the_same_place(study: Study, tmp_path: Path) -> None:
    write_nifti(tmp_path / "v.nii.gz", study.voxels, study.grid)
    write_metaimage(tmp_path / "v.mhd", study.voxels, study.grid)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series(tmp_path / "series", study, 1))))
    for image in (reader.Execute(), *(SimpleITK.ReadImage(str(tmp_path / n)) for n in ("v.nii.gz", "v.mhd"))):
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), study.voxels)
        np.testing.assert_allclose(image.GetSpacing(), study.grid.spacing[::-1], rtol=1e-5)
        np.testing.assert_allclose(image.GetOrigin(), study.grid.origin, atol=1e-3)
        np.testing.assert_allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-6)
        point = image.TransformIndexToPhysicalPoint((3, 7, 5))
        np.testing.assert_allclose(study.grid.index(point), (5, 7, 3), atol=1e-2)
    for name, write in (("m.nii.gz", write_nifti), ("m.mhd", write_metaimage)):
        write(tmp_path / name, study.mask, study.grid)
        image = SimpleITK.ReadImage(str(tmp_path / name))
        assert image.GetPixelID() == SimpleITK.sitkUInt8
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), study.mask)
    assert {p.name for p in tmp_path.iterdir()} == {
        "series",
        "v.mhd",
        "v.nii.gz",
        "v.raw",
        "m.mhd",
        "m.nii.gz",
        "m.raw",
    }


def test_series_of_every_coding_and_sign(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.RAISE)
    seen, order = set(), set()
    for seed, syntax in enumerate(SYNTAXES * 4):
        monkeypatch.setattr(ct, "SYNTAX_SHARE", [float(s == syntax) for s in SYNTAXES])
        slices = [pydicom.dcmread(path) for path in sorted(series(tmp_path / f"{seed}", study, seed).iterdir())]
        heights = [float(ds.ImagePositionPatient[2]) for ds in slices]
        assert len(set(heights)) == 9 and heights != sorted(heights) and heights != sorted(heights)[::-1]
        for ds, z in zip(slices, heights, strict=True):
            hu = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
            np.testing.assert_array_equal(hu, study.voxels[round((z - study.grid.origin[2]) / 2.5)])
            assert ds.file_meta.TransferSyntaxUID == syntax and ds.SOPClassUID == CTImageStorage
            check_attributes(ds, REQUIRED_CT, PRESENT_CT)
        assert len({ds.SOPInstanceUID for ds in slices}) == 9
        assert {ds.SeriesInstanceUID for ds in slices} == {uid(f"key {seed}", "series")}
        seen.add((syntax, slices[0].PixelRepresentation))
        order.add(np.sign(np.corrcoef(heights, [ds.InstanceNumber for ds in slices])[0, 1]))
    assert {s for s, _ in seen} == set(SYNTAXES) and {sign for _, sign in seen} == {0, 1} and order == {-1, 1}


def test_a_series_half_written_is_made_anew(study: Study, tmp_path: Path) -> None:
    whole = {p.name: p.read_bytes() for p in series(tmp_path / "a", study, 5).iterdir()}
    for half_written in (".b.part/STALE.dcm", "b/OLD.dcm"):
        (tmp_path / half_written).parent.mkdir()
        (tmp_path / half_written).write_bytes(b"half")
    assert {p.name: p.read_bytes() for p in series(tmp_path / "b", study, 5).iterdir()} == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
