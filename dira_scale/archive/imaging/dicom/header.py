"""DICOM headers: reads only the few elements requested."""

import io
import logging
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dira_scale.archive.imaging.files import opened_for_header
from dira_scale.archive.imaging.rejection import RejectedError

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # it logs values of damaged headers

MAX_INFLATED = 2**28  # bytes of a deflated file; more is a decompression bomb
MAX_ITEMS = 2**20  # of sequences in a header, of which pydicom reads 20,000 a second: 16 for each of 2**16 frames
MAX_FRAMES = 2**16
MIN_FRAME = 64  # bytes: the size of the RLE header alone; but 16 x 16 pixels of 1 bit have 32
OBJECTS = {  # what is no image, by its modality (PS3.3 C.7.3.1.1.1), and by the beginnings of its SOP classes (PS3.6 A)
    "SEG": ("66.4", "66.5", "66.7"),
    "RTSTRUCT": ("481.3",),
    "KO": ("88.59",),
    "SR": ("88.",),
    "PR": ("11.",),
}
STORAGE = "1.2.840.10008.5.1.4.1.1."
ONE_BIT = "DICOM of 1 bit a pixel: a mask, not an image"
HEADER = {
    "patient": "PatientID",
    "study": "StudyInstanceUID",
    "sex": "PatientSex",
    "age": "PatientAge",
    "view": "ViewPosition",
    "manufacturer": "Manufacturer",
}


class ObjectError(RejectedError):
    """A DICOM object that is about images, and is none."""


def refuse_objects(header: Dataset) -> None:
    """Raise ObjectError for a segmentation, contours, a report, a key object selection or a presentation state, however
    many bits its pixels have. ``header`` needs SOPClassUID and Modality."""
    uid, modality = str(header.get("SOPClassUID") or ""), str(header.get("Modality") or "").strip().upper()
    number = uid.removeprefix(STORAGE) if uid.startswith(STORAGE) else ""
    for kind, classes in OBJECTS.items():
        if modality == kind or any(number == c or (c[-1] == "." and number.startswith(c)) for c in classes):
            raise ObjectError(f"DICOM {kind}, which is no image")


def is_dicom(file: BinaryIO) -> bool:
    """Return whether ``file`` starts with a DICOM preamble, or with the first group of a file without one; rewinds it.

    Files without a preamble begin with an element of group 0002 or, without file meta information, 0008.
    """
    file.seek(0)
    start = file.read(132)
    file.seek(0)
    return start[128:] == b"DICM" or start[:2] in (b"\x02\x00", b"\x08\x00") or start[:3] == b"\x00\x08\x00"


def read_header(file: BinaryIO) -> dict[str, str]:
    """The elements of ``HEADER`` that are present and not blank, ``modality``, and ``frames``, if there are several.

    Raises RejectedError for pixels of 1 bit: each frame would be an input that is refused later.
    """
    wanted = ["SOPClassUID", "Modality", "NumberOfFrames", "BitsAllocated"]
    header, rest = read_elements(file, [*HEADER.values(), *wanted])
    refuse_objects(header)
    if header.get("BitsAllocated") == 1:
        raise RejectedError(ONE_BIT)
    values = {name: header.get(tag) for name, tag in {**HEADER, "modality": "Modality"}.items()}
    texts = {name: str(value).strip() for name, value in values.items() if value is not None}
    if (frames := count_frames(header, rest)) > 1:
        texts["frames"] = str(frames)
    return {name: text for name, text in texts.items() if text}


def header_of(path: Path) -> dict[str, str]:
    """``read_header`` of a DICOM file; empty for any other file. Raises RejectedError."""
    with opened_for_header(path) as file:
        return read_header(file) if is_dicom(file) else {}


def count_frames(header: Dataset, rest: BinaryIO) -> int:
    """The number of frames. Raises RejectedError if it exceeds the limit or what the rest of the file can hold: each
    frame becomes an input, and four kilobytes must not yield 65,536 of them."""
    frames = int(header.get("NumberOfFrames") or 1)
    if not 1 <= frames <= MAX_FRAMES:
        raise RejectedError(f"DICOM that says it has none or more than {MAX_FRAMES} frames")
    here = rest.tell()
    left = rest.seek(0, io.SEEK_END) - rest.seek(here)
    least = 1 if header.get("BitsAllocated") == 1 else MIN_FRAME
    if frames > 1 and frames * least > left:
        raise RejectedError("DICOM that claims more frames than its length can hold")
    return frames


def read_elements(file: BinaryIO, keywords: Collection[str]) -> tuple[Any, BinaryIO]:
    """The elements of these keywords, and the file positioned before its pixel data: inflated, and bounded.

    The header's ``file_meta`` has the transfer syntax of the returned file. Raises what pydicom does.
    """
    length = file.seek(0, io.SEEK_END)
    bounded: Any = _Bounded(file)
    read_preamble(bounded, force=True)
    meta = read_dataset(bounded, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        inflated = stream.decompress(bounded.read(), MAX_INFLATED)
        if stream.unconsumed_tail:
            raise RejectedError(f"DICOM that inflates to more than {MAX_INFLATED} bytes")
        bounded = io.BytesIO(inflated)
    bounded.seek(0)
    few: Any = _FewItems(bounded, length)
    header = dcmread(few, stop_before_pixels=True, force=True, specific_tags=list(keywords))
    if "TransferSyntaxUID" not in header.file_meta:  # pydicom has guessed it
        implicit, little = header.original_encoding
        header.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        )
    return header, bounded


class _Bounded:
    """Limits each read to the bytes left: Python would allocate gigabytes for a false length."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._end = file.seek(0, io.SEEK_END)
        file.seek(0)
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._end - self.tell())
        return self._file.read(left if size < 0 else min(size, left))


class _FewItems:
    """Refuses more items of sequences than ``length``, the bytes of the file as stored, or MAX_ITEMS: an empty one
    has 8 bytes, of which a thousand inflate from one."""

    def __init__(self, file: BinaryIO, length: int):
        self._file, self._left = file, min(length, MAX_ITEMS)
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self._left -= content.count(b"\xfe\xff\0\xe0") + content.count(b"\xff\xfe\xe0\0")
        if self._left < 0:
            raise RejectedError("DICOM header of more items in sequences than its length can hold")
        return content
