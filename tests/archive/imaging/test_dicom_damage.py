"""Damaged DICOM files: a verdict on each, within the memory that the file can justify, and no crash."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from archive import ingest
from pydicom.encaps import encapsulate

from dira_scale.archive.imaging.dicom.frames import DicomFile, plane_of
from dira_scale.archive.imaging.dicom.header import read_header
from dira_scale.archive.imaging.dicom.structures import CONTOURS, structures_in
from dira_scale.archive.imaging.read import read_image
from dira_scale.archive.imaging.rejection import RejectedError, rejects
from dira_scale.archive.sources.folder import Folder

PIXELS = np.random.default_rng(0).integers(0, 4096, (48, 40)).astype(np.uint16)


def read(content: bytes) -> None:
    file = io.BytesIO(content)
    with suppress(RejectedError), rejects("damaged"):
        read_header(file)
        dicom = DicomFile(file)
        dicom.frame(dicom.count - 1)
        plane_of(dicom.frame_header(0))


def peak(work: Callable[[], None]) -> int:
    """Bytes that were taken at most, as numpy and Python see it."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_length_that_lies_reserves_no_memory(tmp_path: Path) -> None:
    path = ingest.dicom(tmp_path / "x.dcm", PIXELS, VOILUTFunction="LINEAR")
    content = path.read_bytes()
    location = content.index(b"(\x00\x56\x10CS")  # becomes an element of a length of 4 GB
    lying = content[:location] + b"(\x00\x10\x30OW\0\0" + struct.pack("<I", 0xFFFFFFF0) + content[location + 8 :]
    pixels = b"\xe0\x7f\x10\x00OW\0\0"
    long = content.replace(pixels + struct.pack("<I", PIXELS.nbytes), pixels + struct.pack("<I", 0xFFFFFFF0))
    assert content not in (lying, long)
    for spoilt in (lying, long):
        assert peak(partial(read, spoilt)) < 10 * len(content) + 2**20


@pytest.mark.parametrize("tag", [0x30060020, 0x00081140])
def test_a_kilobyte_makes_no_million_items(tag: int) -> None:
    """Empty items of a sequence, deflated, of which pydicom reads 20,000 a second; the last is not asked for."""

    def element(tag: int, kind: bytes, value: bytes) -> bytes:
        return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, kind, len(value)) + value

    count = 400_000
    syntax = element(0x00020010, b"UI", b"1.2.840.10008.1.2.1.99")
    meta = bytes(128) + b"DICM" + element(0x00020000, b"UL", struct.pack("<I", len(syntax))) + syntax
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * count
    body = element(0x00080016, b"UI", CONTOURS.encode() + b"\0")
    body += struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"SQ", 0, 0xFFFFFFFF) + items
    body += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = meta + deflate.compress(body) + deflate.flush()
    assert len(bomb) < 8192

    def work() -> None:
        with pytest.raises(RejectedError), rejects("damaged"):
            structures_in(io.BytesIO(bomb))

    assert peak(work) < 32 * count  # the items as they are inflated, and a copy


@pytest.mark.parametrize(
    "coding, encode",
    [
        ("4.50", lambda pixels: imagecodecs.jpeg8_encode(pixels.astype(np.uint8))),
        ("4.70", lambda pixels: imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=16)),
        ("4.80", imagecodecs.jpegls_encode),
        ("4.90", lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k")),
    ],
)
def test_a_stream_of_another_size_or_depth_is_not_decoded(
    tmp_path: Path, coding: str, encode: Callable[[np.ndarray], bytes]
) -> None:
    """A stream of kilobytes may ask for gigabytes; one of 16 bits does not fit a header of 8."""

    def write(stream: bytes, bits: int) -> Path:
        path = ingest.dicom(tmp_path / "x.dcm", PIXELS)
        ds = pydicom.dcmread(path)
        ds.PixelData = encapsulate([stream])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2.{coding}"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
        ds.save_as(path)
        return path

    bits = 8 if coding == "4.50" else 16
    stored = PIXELS.astype(np.uint8) if bits == 8 else PIXELS
    with write(encode(stored), bits).open("rb") as file:
        decoded = DicomFile(file).frame().values
        assert decoded.shape == PIXELS.shape and (bits == 8 or np.array_equal(decoded, PIXELS))
    bomb = write(encode(np.zeros((6000, 6000), stored.dtype)), bits)

    def refuse() -> None:
        with pytest.raises(RejectedError, match="damaged or cut short"):
            read_image(bomb, 8)

    assert peak(refuse) < 10 * bomb.stat().st_size + 2**20
    if bits == 16:
        with write(encode(stored), 8).open("rb") as file, pytest.raises(RejectedError, match="damaged or cut short"):
            DicomFile(file).frame()
    with (
        write(encode(stored)[:-200], bits).open("rb") as file,
        pytest.raises(RejectedError, match="damaged or cut short"),
    ):
        DicomFile(file).frame()


def test_what_follows_too_few_pixels_is_not_taken_for_pixels(tmp_path: Path) -> None:
    path = ingest.dicom(tmp_path / "x.dcm", PIXELS)
    ds = pydicom.dcmread(path)
    ds.PixelData = ds.PixelData[:-400]
    ds.add_new(0xFFFCFFFC, "OB", b"Quillfeather^Osbertina" * 20)
    ds.save_as(path)
    with pytest.raises(RejectedError, match="less pixel data than pixels"):
        read_image(path, 8)


def test_a_small_segmentation_is_not_called_broken(tmp_path: Path) -> None:
    """A frame of 16 x 16 pixels of 1 bit has 32 bytes, fewer than any frame of 8 bits that is compressed."""
    bits = np.packbits(np.random.default_rng(0).integers(0, 2, (8, 16, 16), np.uint8), bitorder="little")
    path = ingest.dicom(tmp_path / "seg.dcm", PIXELS, NumberOfFrames="8", Rows=16, Columns=16, BitsAllocated=1,
                        BitsStored=1, HighBit=0, PixelData=bits.tobytes(), Modality="SEG")  # fmt: skip
    reason = "DICOM SEG, which is no image"
    assert not [*Folder(str(tmp_path)).records(1)]
    with path.open("rb") as file, pytest.raises(RejectedError, match=reason):
        DicomFile(file)


def test_a_number_of_frames_that_lies_makes_no_inputs(tmp_path: Path) -> None:
    """Each would be opened, refused and counted by itself, for a minute and more."""
    path = ingest.dicom(tmp_path / "x.dcm", PIXELS, NumberOfFrames="65536")
    with path.open("rb") as file, pytest.raises(RejectedError, match="more frames than its length can hold"):
        read_header(file)
    with path.open("rb") as file, pytest.raises(RejectedError, match="more frames than its length can hold"):
        DicomFile(file)
    (record,) = Folder(str(tmp_path)).records(1)
    assert record.rejected == "DICOM that claims more frames than its length can hold"
    with ingest.dicom(path, PIXELS, NumberOfFrames="2").open("rb") as file:  # as many as there is room for
        assert read_header(file)["frames"] == "2"
