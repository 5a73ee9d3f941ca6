"""DICOM frames: modality values of any frame in any transfer syntax, and its position in the patient."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, as_pixel_options, convert_color_space, get_decoder
from pydicom.uid import UID_dictionary

from dira_scale.archive.imaging.dicom.codestream import PLUGINS
from dira_scale.archive.imaging.dicom.header import ONE_BIT, count_frames, read_elements, refuse_objects
from dira_scale.archive.imaging.dicom.values import find_padding, modality_values
from dira_scale.archive.imaging.grey import check_size, luminance
from dira_scale.archive.imaging.rejection import RejectedError, rejects

# Functional groups that are used, shared or per frame (PS3.3 C.7.6.16).
MACROS = (
    "PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
)  # fmt: skip
ELEMENTS = (
    "SOPClassUID", "Modality", "ImageType", "BurnedInAnnotation",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    "PixelSpacing", "ImagerPixelSpacing", "ImagePositionPatient", "ImageOrientationPatient",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
)  # fmt: skip


class Plane(NamedTuple):
    """A frame's position in the patient, in mm to the left, back and head (DICOM's LPS+; PS3.3 C.7.6.2.1.1)."""

    position: np.ndarray  # [3], centre of the first pixel
    right: np.ndarray  # [3], unit vector along a row, towards the next column
    down: np.ndarray  # [3], unit vector along a column, towards the next row
    spacing: tuple[float, float]  # mm between rows, and between columns


@dataclass(frozen=True)
class Decoded:
    """One decoded frame.

    Attributes:
        values: integers or float64 [H, W]: modality values (HU for CT); luminance for colour images.
        padding: bool [H, W], pixels that the file marks as padding.
        step: difference between adjacent values.
        top: largest possible value of a colour image, else None.
        inverted: small values are displayed bright (MONOCHROME1).
        header: the file's, overlaid with the frame's own functional groups.
        colours: of a colour image: makes integers [H, W, 3], red, green and blue from 0 to ``top``.
    """

    values: np.ndarray
    padding: np.ndarray
    step: float
    top: int | None
    inverted: bool
    header: Dataset
    colours: Callable[[], np.ndarray] | None = None


def plane_of(header: Dataset) -> Plane | None:
    """The plane of a file or frame from its ``header``; None if elements are missing. Raises RejectedError."""
    with rejects("DICOM position, orientation or spacing is damaged ({})"):
        wanted = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        position, orientation, spacing = (np.array(header.get(name) or (), float) for name in wanted)
        if (position.size, orientation.size, spacing.size) != (3, 6, 2):
            return None
        right, down = orientation.reshape(2, 3)
        lengths = np.linalg.norm([right, down], axis=1)
        everything = np.concatenate([position, orientation, spacing])
        if not np.isfinite(everything).all() or min(spacing) <= 0 or max(abs(lengths - 1), default=0) > 0.01 \
                or abs(right @ down) > 0.01:  # fmt: skip
            raise RejectedError("DICOM position, orientation or spacing is impossible")
        return Plane(position, right / lengths[0], down / lengths[1], (float(spacing[0]), float(spacing[1])))


class DicomFile:
    """An open DICOM file: reads the header at once, frames on request.

    Args:
        file: any length, any transfer syntax; kept open by the caller.
        more: keywords to read into ``header`` in addition to ``ELEMENTS``.

    The constructor and the methods raise RejectedError.
    """

    BITS: tuple[int, ...] = (8, 16)  # per pixel
    IMAGES = True  # else segmentations

    def __init__(self, file: BinaryIO, more: Sequence[str] = ()):
        with rejects("DICOM header is damaged ({})"):
            self.header, self._file = read_elements(file, [*ELEMENTS, *more])
            header = self.header
            if self.IMAGES:
                refuse_objects(header)
            if "Rows" not in header:  # a report, a plan, a directory
                raise RejectedError("DICOM without an image, or cut short before it")
            self.syntax = header.file_meta.TransferSyntaxUID
            self.count = count_frames(header, self._file)
            self.shape = h, w = int(header.Rows), int(header.Columns)
            check_size(h, w)
            start = self._file.read(12)  # of the pixel data, which must be present and long enough
            order = "<" if header.original_encoding[1] else ">"
            if struct.unpack(f"{order}HH", start[:4]) != (0x7FE0, 0x0010):
                raise RejectedError("DICOM without pixels, or with pixels that are not integers")
            explicit = start[4:6] in (b"OB", b"OW", b"UN")  # read as a length, these would be odd, and lengths are even
            (length,) = struct.unpack(f"{order}I", start[8:] if explicit else start[4:8])
            self._start = self._file.tell() - (0 if explicit else 4)
            photometric, samples = str(header.PhotometricInterpretation), int(header.SamplesPerPixel)
            readable = {1: ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"),
                        3: ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")}  # fmt: skip
            if photometric not in readable.get(samples, ()):
                raise RejectedError("DICOM in colours of a kind that cannot be read here")
            if header.BitsAllocated not in self.BITS and header.BitsAllocated == 1:
                raise RejectedError(ONE_BIT)
            if header.BitsAllocated not in self.BITS:
                raise RejectedError(f"DICOM of other than {' or '.join(map(str, self.BITS))} bits a pixel")
            if not self.syntax.is_transfer_syntax or not self.syntax.is_encapsulated:
                least = (h * w * samples * header.BitsAllocated * self.count + 7) // 8
                if photometric == "YBR_FULL_422":
                    least = least * 2 // 3
                if length < least:  # bytes after the pixels may be text
                    raise RejectedError("damaged or cut short (less pixel data than pixels)")
            representation = start[4:6].decode() if explicit else "OW"
            self._options = as_pixel_options(header, pixel_keyword="PixelData", pixel_vr=representation)

    def frame_header(self, number: int) -> Dataset:
        """The header with the functional groups of frame ``number`` (from 0) merged into the top level."""
        flat = Dataset()
        flat.update(self.header)
        flat.set_original_encoding(*self.header.original_encoding)
        shared = (self.header.get("SharedFunctionalGroupsSequence") or [])[:1]
        per_frame = (self.header.get("PerFrameFunctionalGroupsSequence") or [])[number : number + 1]
        for group in [*shared, *per_frame]:
            for macro in MACROS:
                for item in (group.get(macro) or [])[:1]:
                    flat.update(item)
        return flat

    def frame(self, number: int = 0) -> Decoded:
        """Decode frame ``number`` (from 0)."""
        if not 0 <= number < self.count:
            raise RejectedError("DICOM has no such frame")
        with rejects("damaged or cut short ({} in DICOM decoding)"):
            header = self.frame_header(number)
            stored, photometric = self._stored(number)
            rgb: Callable[[], np.ndarray] | None = None
            padding, step, top = np.zeros(self.shape, bool), 1.0, 2 ** int(header.BitsStored) - 1
            if photometric in ("MONOCHROME1", "MONOCHROME2"):
                (values, step), padding, top = modality_values(header, stored), find_padding(header, stored), None
            elif photometric == "PALETTE COLOR":
                colours, top = apply_color_lut(stored, header)[..., :3], 255
                if colours.dtype == np.uint16:  # 16-bit tables hold 8 bits in the upper byte, whatever is in the lower
                    colours = (colours >> 8).astype(np.uint8)
                values, rgb = luminance(colours), lambda: colours
            elif photometric == "RGB":
                values, rgb = luminance(stored), lambda: stored
            else:  # Y of YBR is the luminance
                values, rgb = stored[..., 0], lambda: convert_color_space(stored, photometric, "RGB")
            return Decoded(values, padding, step, top, photometric == "MONOCHROME1", header, rgb)

    def _stored(self, number: int) -> tuple[np.ndarray, str]:
        """Stored values [H, W] or [H, W, 3], and their photometric interpretation."""
        try:
            decoder = get_decoder(self.syntax)
        except NotImplementedError as error:
            name, category, *_ = UID_dictionary.get(self.syntax, ("", ""))  # any other text may be anything
            coding = name if category == "Transfer Syntax" else "unknown"
            raise RejectedError(f"DICOM in a coding that cannot be read here ({coding})") from error
        self._file.seek(self._start)
        plugin = PLUGINS.get(self.syntax, "")
        pixels, meta = decoder.as_array(self._file, index=number, raw=True, decoding_plugin=plugin, **self._options)
        return pixels, str(meta["photometric_interpretation"])
