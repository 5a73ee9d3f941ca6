"""DICOM segmentations: binary or fractional frames, each one segment in one plane, or label maps (PS3.3 C.8.20)."""

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dira_scale.archive.imaging.dicom.frames import DicomFile, Plane, plane_of
from dira_scale.archive.imaging.rejection import RejectedError

KINDS = {"BINARY": (1,), "FRACTIONAL": (8,), "LABELMAP": (8, 16)}  # bits of a pixel


def read_segments(file: BinaryIO) -> Iterator[tuple[Plane, np.ndarray]]:
    """All frames of a segmentation: the plane, and uint16 [H, W], the number of each pixel's segment, from 1, 0 outside
    of all; probabilities and occupancies of at least one half are inside.

    Raises RejectedError.
    """
    segmentation = _Segmentation(file)
    for number in range(segmentation.count):
        yield segmentation.segment_frame(number)


class _Segmentation(DicomFile):
    BITS, IMAGES = (1, 8, 16), False

    def __init__(self, file: BinaryIO):
        super().__init__(file, ("SegmentationType", "MaximumFractionalValue"))
        self.kind = str(self.header.get("SegmentationType") or "").strip()
        bits = self.header.BitsAllocated
        if bits not in KINDS.get(self.kind, ()):
            raise RejectedError("a DICOM segmentation other than BINARY (1 bit), FRACTIONAL (8), LABELMAP (8 or 16)")
        if bits == 1 and self.syntax not in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
            raise RejectedError("a BINARY DICOM segmentation in a coding that cannot be read here")

    def segment_frame(self, number: int) -> tuple[Plane, np.ndarray]:
        plane = plane_of(self.frame_header(number))
        if plane is None:
            raise RejectedError("a DICOM segmentation without position, orientation or spacing of its frames")
        if self.kind == "LABELMAP":
            values, _ = self._stored(number)
            padding = values == self.header.get("PixelPaddingValue", 0)
            return plane, np.where(padding, 0, values).astype(np.uint16)
        groups = [*self.header.get("SharedFunctionalGroupsSequence", []),
                  self.header.PerFrameFunctionalGroupsSequence[number]]  # fmt: skip
        (segment,) = {
            int(item.ReferencedSegmentNumber)
            for group in groups
            for item in group.get("SegmentIdentificationSequence", [])
        }
        if segment < 1:
            raise RejectedError("a DICOM segment whose number is not from 1")
        if self.kind == "BINARY":
            # frames are packed bit by bit, least significant bit first (PS3.5 8.1.1)
            size = self.shape[0] * self.shape[1]
            skipped, first = divmod(number * size, 8)
            self._file.seek(self._start + skipped)
            packed = np.frombuffer(self._file.read((first + size + 7) // 8), np.uint8)
            bits = np.unpackbits(packed, bitorder="little")[first : first + size].astype(bool)
            return plane, bits.reshape(self.shape) * np.uint16(segment)
        values, _ = self._stored(number)
        inside = values.astype(int) * 2 >= int(self.header.MaximumFractionalValue)
        return plane, inside * np.uint16(segment)
