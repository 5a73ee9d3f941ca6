"""DICOM elements common to all phantoms: invented people, studies, transfer syntaxes.

The identities are invented and searchable: to test their removal, search for every value of `IDENTIFYING`.
"""

import io
import uuid
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

IDENTIFYING = (
    "PatientName", "PatientID", "PatientBirthDate", "OtherPatientNames", "PatientAddress", "PatientTelephoneNumbers",
    "AccessionNumber", "StudyID", "InstitutionName", "InstitutionAddress", "ReferringPhysicianName",
    "PerformingPhysicianName", "OperatorsName", "StationName", "DeviceSerialNumber", "StudyInstanceUID",
    "SeriesInstanceUID", "SOPInstanceUID",
)  # fmt: skip
PRIVATE_CREATOR = "VELMORAY PHANTOM 01"
SYNTAXES = (ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless)
SYNTAX_SHARE = (0.85, 0.12, 0.03)

_HEADS = ["Bram", "Quell", "Thorn", "Vask", "Ostr", "Mirv", "Hald", "Pennic", "Drus", "Wexl", "Jarv", "Kolb"]
_TAILS = ["ovastri", "umberly", "ickhaven", "anzolt", "erquist", "imbledon", "othwaite", "andriel"]
_GIVEN = ["Maribeltha", "Oswindor", "Teofanna", "Ludevic", "Annikora", "Berengold", "Philumena", "Casparin"]


@dataclass(frozen=True)
class Identity:
    """An invented person, the same in all studies."""

    name: str
    sex: str
    number: str
    born: str  # YYYYMMDD
    address: str
    telephone: str

    @classmethod
    def draw(cls, rng: np.random.Generator, patient: int, sex: str, age: int) -> "Identity":
        def surname() -> str:
            return str(rng.choice(_HEADS)) + str(rng.choice(_TAILS))

        name, number = f"{surname()}-{surname()}^{rng.choice(_GIVEN)}", f"VHX{patient:05d}-{rng.integers(16**6):06X}"
        born = f"{2019 - age}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}"
        address = f"{rng.integers(1000, 9999)} {surname()} Lane"
        return cls(name, sex, number, born, address, f"+99 555 {rng.integers(10**7):07d}")


def encoded(ds: Dataset, syntax: UID) -> bytes:
    """Encode a data set with uncompressed pixels as a file in ``syntax``."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax != ExplicitVRLittleEndian:
        ds.compress(syntax, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def patient_and_study(
    identity: Identity, age: int, study: int, key: str, description: str, rng: np.random.Generator
) -> Dataset:
    """The elements on patient, study, institution and staff, with unique identifiers derived from ``key``."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = (uid(key, k) for k in ("image", "series", "study"))
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = (
        f"{2019 + study}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}"
    )
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = (
        f"{rng.integers(7, 20):02d}{rng.integers(60):02d}{rng.integers(60):02d}"
    )
    ds.AccessionNumber, ds.StudyID = f"ACC{rng.integers(10**9):09d}", f"STDY{rng.integers(10**6):06d}"
    ds.SeriesNumber = ds.InstanceNumber = 1
    ds.StudyDescription, ds.DerivationDescription = description, "Simulated"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = identity.name, identity.number, identity.born
    ds.OtherPatientNames = identity.name.replace("^", "^Alias ")
    ds.PatientAddress, ds.PatientTelephoneNumbers = identity.address, identity.telephone
    ds.PatientSex, ds.PatientAge = identity.sex, f"{age:03d}Y"
    ds.InstitutionName, ds.InstitutionAddress = "Velmoray Phantom Infirmary", "77 Quillhaven Embankment, Velmoray"
    ds.ReferringPhysicianName, ds.PerformingPhysicianName = "Zandervelt^Ignatika", "Morwenstrasse^Adelbrand"
    ds.OperatorsName = "Fennimore-Quist^Hildegund"
    ds.Manufacturer, ds.ManufacturerModelName = "dira_scale", "phantom"
    ds.StationName, ds.DeviceSerialNumber = "VELMORAYDX7", f"SER{rng.integers(10**8):08d}"
    ds.BurnedInAnnotation, ds.LossyImageCompression, ds.KVP = "NO", "00", "120"
    block = ds.private_block(0x0099, PRIVATE_CREATOR, create=True)
    block.add_new(0x01, "LO", f"Archive of {identity.name.replace('^', ' ')}")
    block.add_new(0x02, "LO", f"Barcode {identity.number}")
    return ds


def set_pixels(ds: Dataset, stored: np.ndarray, bits: int) -> None:
    """Set 16-bit pixels [Y, X], of which ``bits`` are used, signed if their type is."""
    ds.SamplesPerPixel, (ds.Rows, ds.Columns) = 1, stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits, bits - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    ds.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    ds["PixelData"].VR = "OW"


def uid(key: str, kind: str) -> UID:
    """A UID determined by key and kind."""
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{key}/{kind}').int}")
