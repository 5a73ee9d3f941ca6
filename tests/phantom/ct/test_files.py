"""The three formats, read by SimpleITK (GDCM), and the DICOM files by what the standard demands."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom import config
from pydicom.uid import UID, CTImageStorage

from dira_scale.phantom.ct import dicom
from dira_scale.phantom.ct.files import write_metaimage, write_nifti
from dira_scale.phantom.ct.grid import ScanGrid
from dira_scale.phantom.ct.scanner import Scanner
from dira_scale.phantom.ct.study import Study
from dira_scale.phantom.dicom import IDENTIFYING, SYNTAXES, Identity

# PS3.3 table A.3-1 and the modules it names: type 1 (a value) and type 2 (present, may be empty), in short.
REQUIRED = """SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality FrameOfReferenceUID ImageType
    PixelSpacing ImageOrientationPatient ImagePositionPatient SamplesPerPixel PhotometricInterpretation Rows Columns
    BitsAllocated BitsStored HighBit PixelRepresentation PixelData RescaleIntercept RescaleSlope WindowCenter
    WindowWidth""".split()  # noqa: SIM905
PRESENT = """PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID
    AccessionNumber SeriesNumber PositionReferenceIndicator InstanceNumber SliceThickness KVP AcquisitionNumber
    Manufacturer PatientPosition""".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def study() -> Study:
    rng = np.random.default_rng(0)
    grid = ScanGrid((9, 40, 36), (2.5, 0.8203, 0.8203), (-151.4062, -302.1719, -1187.25))
    voxels = rng.integers(-1024, 3072, grid.shape).astype(np.int16)
    mask = rng.integers(0, 3, grid.shape).astype(np.uint8)
    return Study(voxels, mask, grid, (), Scanner("SOFT", 1.2, 10, 0.4), True)


def series(folder: Path, study: Study, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    identity = Identity.draw(rng, seed, "F", 61)
    dicom.write(folder, study, "thorax", identity, 61, 0, f"key {seed}", rng)
    return folder


def test_three_formats_hold_the_same_voxels_in_the_same_place(study: Study, tmp_path: Path) -> None:
    write_nifti(tmp_path / "v.nii.gz", study.voxels, study.grid)
    write_metaimage(tmp_path / "v.mhd", study.voxels, study.grid)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series(tmp_path / "series", study, 1))))
    images = [reader.Execute(), *(SimpleITK.ReadImage(str(tmp_path / n)) for n in ("v.nii.gz", "v.mhd"))]
    for image in images:
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), study.voxels)
        np.testing.assert_allclose(image.GetSpacing(), study.grid.spacing[::-1], rtol=1e-5)
        np.testing.assert_allclose(image.GetOrigin(), study.grid.origin, atol=1e-3)
        np.testing.assert_allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-6)
        point = image.TransformIndexToPhysicalPoint((3, 7, 5))
        np.testing.assert_allclose(study.grid.index(point), (5, 7, 3), atol=1e-2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["series", "v.mhd", "v.nii.gz", "v.raw"]


def test_masks_keep_their_values(study: Study, tmp_path: Path) -> None:
    for name, write in (("m.nii.gz", write_nifti), ("m.mhd", write_metaimage)):
        write(tmp_path / name, study.mask, study.grid)
        image = SimpleITK.ReadImage(str(tmp_path / name))
        assert image.GetPixelID() == SimpleITK.sitkUInt8
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), study.mask)


def test_series_of_every_coding_and_sign(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.RAISE)
    seen, order = set(), set()
    for seed, syntax in enumerate(SYNTAXES * 4):
        monkeypatch.setattr(dicom, "SYNTAX_SHARE", [float(s == syntax) for s in SYNTAXES])
        files = sorted(series(tmp_path / f"{seed}", study, seed).iterdir())
        slices = [pydicom.dcmread(path) for path in files]
        heights = [float(ds.ImagePositionPatient[2]) for ds in slices]
        assert len(set(heights)) == 9 and heights != sorted(heights) and heights != sorted(heights)[::-1]
        for ds, z in zip(slices, heights, strict=True):
            hu = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
            np.testing.assert_array_equal(hu, study.voxels[round((z - study.grid.origin[2]) / 2.5)])
            assert ds.file_meta.TransferSyntaxUID == syntax and UID(ds.SOPInstanceUID).is_valid
        assert len({ds.SOPInstanceUID for ds in slices}) == 9 and len({ds.SeriesInstanceUID for ds in slices}) == 1
        assert slices[0].SeriesInstanceUID == dicom.series_uid(f"key {seed}")
        seen.add((syntax, slices[0].PixelRepresentation))
        order.add(np.sign(np.corrcoef(heights, [ds.InstanceNumber for ds in slices])[0, 1]))
    assert {s for s, _ in seen} == set(SYNTAXES) and {sign for _, sign in seen} == {0, 1} and order == {-1, 1}


def test_attributes_of_the_standard_and_an_identity_to_find(study: Study, tmp_path: Path) -> None:
    for path in series(tmp_path / "s", study, 3).iterdir():
        ds = pydicom.dcmread(path)
        assert ds.SOPClassUID == CTImageStorage
        for keyword in REQUIRED:
            assert keyword in ds and not ds[keyword].is_empty, keyword
        for keyword in PRESENT:
            assert keyword in ds, keyword
        for keyword in IDENTIFYING:
            assert len(str(ds[keyword].value)) >= 6, keyword


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(study: Study, tmp_path: Path) -> None:
    for path in sorted(series(tmp_path / "s", study, 4).iterdir())[:2]:
        said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, timeout=60).stderr
        assert "CTImage" in said and "Error" not in said, said


def test_a_series_half_written_is_made_anew(study: Study, tmp_path: Path) -> None:
    whole = {p.name: p.read_bytes() for p in series(tmp_path / "a", study, 5).iterdir()}
    (tmp_path / ".b.part").mkdir()
    (tmp_path / ".b.part" / "STALE.dcm").write_bytes(b"half")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "OLD.dcm").write_bytes(b"old")
    assert {p.name: p.read_bytes() for p in series(tmp_path / "b", study, 5).iterdir()} == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
