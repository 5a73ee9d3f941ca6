"""A DICOM file stuffed with identifying values, in every kind of element and between them: none of them leaves."""

import io
import random
import string
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from archive import ingest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels.codecs import decode
from dira_scale.shard.convert import convert

TEXT = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
BYTES = ("OB", "OW", "UN")
PICTURE = np.random.default_rng(0).integers(0, 4096, (64, 60)).astype(np.uint16)


class Secrets:
    """Names and numbers that occur nowhere else, and a list of them."""

    def __init__(self, seed: int):
        self.rng, self.given = random.Random(seed), list[str]()

    def text(self) -> str:
        secret = "".join(self.rng.choices(string.ascii_uppercase, k=10))
        self.given.append(secret)
        return secret

    def number(self) -> str:
        secret = str(self.rng.randrange(10**9, 10**10))
        self.given.append(secret)
        return secret

    def value(self, vr: str) -> object:
        if vr in TEXT:
            return f"{self.text()}^{self.text()}" if vr == "PN" else self.text()
        if vr in BYTES:
            return (self.text() * 2).encode()
        if vr == "UI":
            return f"1.2.{self.number()}.{self.number()}"
        if vr == "DA":
            return f"19{self.rng.randrange(20, 99)}0{self.rng.randrange(1, 9)}1{self.rng.randrange(9)}"
        if vr in ("DS", "IS"):
            return self.number()[:9]
        raise KeyError(vr)


# What makes an image of it; a file in which these say something else is another file.
PIXELS = {
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PhotometricInterpretation", "PixelData", "NumberOfFrames", "SOPClassUID", "BurnedInAnnotation", "ImageType",
    "SpecificCharacterSet", "PixelPaddingValue", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
}  # fmt: skip


def elements(secrets: Secrets, count: int) -> Iterator[tuple[int, str, object]]:
    """``count`` elements of each type of value from the dictionary, of any group."""
    for vr in (*TEXT, *BYTES, "UI", "DA", "DS", "IS"):
        tags = [tag for tag, entry in DicomDictionary.items()
                if entry[0] == vr and entry[4] not in PIXELS and tag >> 16 not in (0, 2, 4)]  # fmt: skip
        for tag in secrets.rng.sample(tags, min(count, len(tags))):
            yield tag, vr, secrets.value(vr)


def stuff(path: Path, secrets: Secrets, coding: str) -> None:
    ingest.dicom(path, PICTURE, PatientID=secrets.text(), PatientAge="093Y", WindowCenter=2048, WindowWidth=4096)
    ds = pydicom.dcmread(path)
    ds.SpecificCharacterSet = "ISO_IR 192"
    for tag, vr, value in elements(secrets, 8):
        ds.add_new(tag, vr, value)
    nested = Dataset()
    for tag, vr, value in elements(secrets, 1):
        nested.add_new(tag, vr, value)
    for keyword in ("RequestAttributesSequence", "OtherPatientIDsSequence", "ReferencedStudySequence"):
        outer = Dataset()
        outer.PatientID, outer.ContentSequence = secrets.text(), [nested]
        setattr(ds, keyword, [outer, nested])
    for group in (0x0009, 0x0029, 0x6001, 0x7FDF):
        block = ds.private_block(group, secrets.text(), create=True)
        for location, vr in enumerate((*TEXT, *BYTES)):
            block.add_new(location, vr, secrets.value(vr))
        block.add_new(0x40, "SQ", [nested])
    for group in (0x6000, 0x601E):  # overlays: planes of bits that may be text, and words about them
        ds.add_new((group, 0x0010), "US", 64), ds.add_new((group, 0x0011), "US", 60)
        ds.add_new((group, 0x0022), "LO", secrets.text()), ds.add_new((group, 0x1500), "LO", secrets.text())
        ds.add_new((group, 0x0040), "CS", "G"), ds.add_new((group, 0x0050), "SS", [1, 1])
        ds.add_new((group, 0x3000), "OW", (secrets.text() * 48).encode())
    icon = Dataset()
    icon.Rows = icon.Columns = 8
    icon.PixelData = (secrets.text() * 7)[:64].encode()
    icon["PixelData"].VR = "OB"
    ds.IconImageSequence = [icon]
    ds.add_new(0xFFFCFFFC, "OB", (secrets.text() * 3).encode())
    meta = ds.file_meta
    meta.SourceApplicationEntityTitle, meta.ImplementationVersionName = secrets.text(), secrets.text()
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = f"1.2.{secrets.number()}", secrets.text().encode()
    meta.ImplementationClassUID = f"1.2.{secrets.number()}"
    if coding == "overlay in the unused bits":
        marks = np.random.default_rng(len(secrets.given)).integers(0, 16, PICTURE.shape).astype(np.uint16)
        ds.PixelData = (PICTURE | (marks << 12)).tobytes()
    elif coding != "plain":
        stream = {
            "jpeg": lambda: imagecodecs.jpeg8_encode((PICTURE >> 4).astype(np.uint8), level=100),
            "lossless": lambda: imagecodecs.jpeg8_encode(PICTURE, lossless=True, bitspersample=16),
            "jpeg2000": lambda: imagecodecs.jpeg2k_encode(PICTURE, codecformat="j2k"),
        }[coding]()
        comment = secrets.text().encode()
        if coding == "jpeg2000":  # after the SIZ segment
            location = 4 + int.from_bytes(stream[4:6], "big")
            segment = b"\xff\x64" + (len(comment) + 4).to_bytes(2, "big") + b"\0\1" + comment
            stream = stream[:location] + segment + stream[location:]
        else:
            stream = stream[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + stream[2:]
        ds.PixelData = encapsulate([stream, secrets.text().encode() * 5])  # with a fragment of no frame
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        meta.TransferSyntaxUID = "1.2.840.10008.1.2.4." + {"jpeg": "50", "lossless": "70", "jpeg2000": "90"}[coding]
        if coding == "jpeg":
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.WindowCenter, ds.WindowWidth = 8, 8, 7, 128, 256
    ds.preamble = (secrets.text() * 13)[:128].encode()
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=False)
    path.write_bytes(out.getvalue() + (secrets.text() * 9).encode())


def traces(out: Path, secrets: list[str]) -> list[tuple[str, str]]:
    """Which secrets are in which file: in its raw bytes, whole or in part, and in the tables as plain text."""
    for table in out.glob("*.parquet"):
        pq.write_table(pq.read_table(table), out / f"plain.{table.name}", compression="none", use_dictionary=False)
    found = []
    for path in out.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for secret in secrets:
            forms = (secret.encode(), secret.lower().encode(), secret.encode("utf-16-le"), secret.encode()[::-1])
            if any(form in content for form in forms):
                found.append((path.name, secret))
    return found


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.torture) for seed in range(1, 30))])
@pytest.mark.filterwarnings("ignore")
def test_nothing_but_the_picture_leaves(tmp_path: Path, seed: int) -> None:
    secrets = Secrets(seed)
    codings = ("plain", "overlay in the unused bits", "jpeg", "lossless", "jpeg2000")
    for coding in codings:
        path = tmp_path / "images" / secrets.text() / f"{secrets.text()}.dcm"
        path.parent.mkdir(parents=True)
        stuff(path, secrets, coding)
    for name in ("PhotometricInterpretation", "TransferSyntaxUID", "NumberOfFrames", "BurnedInAnnotation"):
        path = ingest.dicom(tmp_path / "images" / f"{secrets.text()}.dcm", PICTURE)  # refused, with care about why
        ds = pydicom.dcmread(path)
        target = ds.file_meta if name == "TransferSyntaxUID" else ds
        setattr(target, name, secrets.number() if name == "NumberOfFrames" else secrets.text())
        ds.save_as(path, implicit_vr=False, little_endian=True)
    attributes = ["sex", "age", "view", "manufacturer"]
    config = ingest.recipe("folder", images=str(tmp_path / "images"), bits=16, attributes=attributes)
    convert(config, tmp_path / "out", workers=1)
    dataset = ShardedDataset.open(tmp_path / "out")
    stored = [decode(dataset.read(row), "png") for row in range(dataset.table.num_rows)]
    assert sum(pixels.max() > 255 and np.array_equal(pixels, PICTURE) for pixels in stored) >= len(codings) - 1
    assert dataset.info.quarantined >= 3
    assert {dict(pairs).get("age") for pairs in dataset.table["attributes"].to_pylist()} == {None, "90"}
    kept = [*secrets.given, *ingest.IDENTITY.values(), "093Y", str(tmp_path)]
    assert len(secrets.given) > 300 and not traces(tmp_path / "out", kept)
