"""The DICOM files: strict reading, attributes that the standard demands, both grey scales, every coding."""

import io

import numpy as np
import pydicom
import pytest
from pydicom import config
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation

from dira_scale.phantom.cxr import dicom
from dira_scale.phantom.cxr.view import View
from dira_scale.phantom.dicom import IDENTIFYING, SYNTAXES, Identity

# PS3.3 table A.26-1 and the modules it names: type 1 (a value) and type 2 (present, may be empty), in short.
REQUIRED = """SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality PresentationIntentType
    ImageType PatientOrientation AnatomicRegionSequence ImageLaterality PixelIntensityRelationship
    PixelIntensityRelationshipSign RescaleIntercept RescaleSlope RescaleType PresentationLUTShape
    LossyImageCompression BurnedInAnnotation DetectorType ImagerPixelSpacing WindowCenter WindowWidth
    SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation
    PixelData InstanceNumber""".split()  # noqa: SIM905
PRESENT = """PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID
    AccessionNumber SeriesNumber AcquisitionContextSequence ViewPosition Manufacturer PositionerType KVP""".split()  # noqa: SIM905


def made(seed: int, syntax: UID | None = None, monkeypatch: pytest.MonkeyPatch | None = None) -> tuple:
    if syntax is not None and monkeypatch is not None:
        monkeypatch.setattr(dicom, "SYNTAX_SHARE", [float(s == syntax) for s in SYNTAXES])
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 4096, (64, 64)).astype(np.uint16)
    identity = Identity.draw(rng, seed, "F", 61)
    coded = dicom.write(pixels, View(64), identity, 61, 2, f"key {seed}", rng)
    return pixels, coded, identity


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_read_strictly_and_exactly(syntax: UID, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.RAISE)
    seen = set()
    for seed in range(12):
        pixels, coded, _ = made(seed, syntax, monkeypatch)
        file = pydicom.dcmread(io.BytesIO(coded), force=False)
        assert file.file_meta.TransferSyntaxUID == syntax
        assert file.SOPClassUID == DigitalXRayImageStorageForPresentation
        for element in file.iterall():
            assert element.value is not None or element.is_empty  # every value is parsed
        inverted = file.PhotometricInterpretation == "MONOCHROME1"
        np.testing.assert_array_equal(file.pixel_array, 4095 - pixels if inverted else pixels)
        seen.add(file.PhotometricInterpretation)
    assert seen == {"MONOCHROME1", "MONOCHROME2"}


def test_attributes_of_the_standard() -> None:
    for seed in range(8):
        file = pydicom.dcmread(io.BytesIO(made(seed)[1]))
        for keyword in REQUIRED:
            assert keyword in file and not file[keyword].is_empty, keyword
        for keyword in PRESENT:
            assert keyword in file, keyword
        inverted = file.PhotometricInterpretation == "MONOCHROME1"
        assert file.PresentationLUTShape == ("INVERSE" if inverted else "IDENTITY")
        assert (file.BitsAllocated, file.BitsStored, file.HighBit) == (16, 12, 11)
        assert float(file.WindowWidth) >= 1 and 0 <= float(file.WindowCenter) <= 4095
        for uid in (file.SOPInstanceUID, file.StudyInstanceUID, file.SeriesInstanceUID):
            assert UID(uid).is_valid
        assert file.file_meta.MediaStorageSOPInstanceUID == file.SOPInstanceUID


def test_the_same_picture_whichever_way_the_grey_runs() -> None:
    from pydicom.pixels import apply_voi_lut

    shown = {}
    for seed in range(12):
        rng = np.random.default_rng(5)
        pixels, identity = np.arange(4096, dtype=np.uint16).reshape(64, 64), Identity.draw(rng, 0, "M", 50)
        coded = dicom.write(pixels, View(64), identity, 50, 0, "k", np.random.default_rng(seed))
        file = pydicom.dcmread(io.BytesIO(coded))
        windowed = apply_voi_lut(file.pixel_array, file).astype(float)
        span = float(windowed.max())
        shown[file.PhotometricInterpretation] = (
            span - windowed if file.PhotometricInterpretation == "MONOCHROME1" else windowed
        ) / span
    assert np.abs(shown["MONOCHROME1"] - shown["MONOCHROME2"]).max() < 0.002


def test_invented_identity_can_be_searched_for() -> None:
    _, coded, identity = made(3)
    file = pydicom.dcmread(io.BytesIO(coded))
    for keyword in IDENTIFYING:
        assert len(str(file[keyword].value)) >= 6, keyword
    private = [element for element in file if element.tag.is_private and not element.tag.is_private_creator]
    assert private and any(identity.number in str(element.value) for element in private)
    names = {Identity.draw(np.random.default_rng(s), s, "F", 40).number for s in range(50)}
    assert len(names) == 50
