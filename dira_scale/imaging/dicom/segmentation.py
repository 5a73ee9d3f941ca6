"""DICOM segmentations: binary or fractional frames, each one segment in one plane (PS3.3 C.8.20)."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dira_scale.imaging.dicom.frames import DicomFile, Plane
from dira_scale.imaging.dicom.header import read_elements
from dira_scale.imaging.rejection import RejectedError

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"  # SOP class
MAX_SEGMENT = 255  # the largest value of a mask


class SegmentFrame(NamedTuple):
    """A frame's plane, the number of its segment (from 1), and bool [H, W]: the pixels in the segment."""

    plane: Plane
    segment: int
    inside: np.ndarray


def read_segments(file: BinaryIO) -> Iterator[SegmentFrame]:
    """All frames of a segmentation; probabilities and occupancies of at least one half are inside.

    Raises RejectedError.
    """
    kind, _ = read_elements(file, ["SOPClassUID"])
    if kind.get("SOPClassUID") != SEGMENTATION:
        raise RejectedError("a DICOM mask that is not a segmentation (SEG)")
    segmentation = _Segmentation(file)
    for number in range(segmentation.count):
        yield segmentation.segment_frame(number)


class _Segmentation(DicomFile):
    BITS, IMAGES = (1, 8), False

    def __init__(self, file: BinaryIO):
        super().__init__(file, ("SegmentationType", "MaximumFractionalValue"))
        self.kind = str(self.header.get("SegmentationType") or "").strip()
        bits = {"BINARY": 1, "FRACTIONAL": 8}.get(self.kind)
        if bits is None or bits != self.header.BitsAllocated:
            raise RejectedError("a DICOM segmentation that is neither BINARY of 1 bit nor FRACTIONAL of 8")
        if bits == 1 and self.syntax not in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
            raise RejectedError("a BINARY DICOM segmentation in a coding that cannot be read here")

    def segment_frame(self, number: int) -> SegmentFrame:
        plane = self.plane(number)
        if plane is None:
            raise RejectedError("a DICOM segmentation without position, orientation or spacing of its frames")
        groups = [*self.header.get("SharedFunctionalGroupsSequence", []),
                  self.header.PerFrameFunctionalGroupsSequence[number]]  # fmt: skip
        (segment,) = {
            int(item.ReferencedSegmentNumber)
            for group in groups
            for item in group.get("SegmentIdentificationSequence", [])
        }
        if not 1 <= segment <= MAX_SEGMENT:
            raise RejectedError(f"a DICOM segmentation of more than {MAX_SEGMENT} segments")
        if self.kind == "BINARY":
            return SegmentFrame(plane, segment, self._bits(number))
        values, _ = self._stored(number)
        return SegmentFrame(plane, segment, values.astype(int) * 2 >= int(self.header.MaximumFractionalValue))

    def _bits(self, number: int) -> np.ndarray:
        """Frames are packed bit by bit, least significant bit first (PS3.5 8.1.1)."""
        size = self.shape[0] * self.shape[1]
        skipped, first = divmod(number * size, 8)
        self._file.seek(self._start + skipped)
        packed = np.frombuffer(self._file.read((first + size + 7) // 8), np.uint8)
        return np.unpackbits(packed, bitorder="little")[first : first + size].reshape(self.shape).astype(bool)
