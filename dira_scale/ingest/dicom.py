"""DICOM by pydicom: an image to one grey channel, and the few names of a header that a source asks for."""

import math
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_modality_lut, apply_voi
from pydicom.uid import UID_dictionary

from dira_scale.ingest.grey import FLAT, Image, Window, check_size, own_range, store
from dira_scale.ingest.verdict import BadImage, judged

# Secondary Capture and its multi-frame kinds: screens and scanned films, whose pixels may show names (PS3.6 A).
SECONDARY_CAPTURE = {"1.2.840.10008.5.1.4.1.1.7", *(f"1.2.840.10008.5.1.4.1.1.7.{kind}" for kind in range(1, 5))}
HEADER = {
    "patient": "PatientID",
    "study": "StudyInstanceUID",
    "sex": "PatientSex",
    "age": "PatientAge",
    "view": "ViewPosition",
    "manufacturer": "Manufacturer",
}


def is_dicom(file: BinaryIO) -> bool:
    """Whether a DICOM preamble, or the first group of a file without one, is at the start; ``file`` is put back there.

    Files without a preamble begin with an element of group 0002 or, without file meta information, 0008.
    """
    file.seek(0)
    start = file.read(132)
    file.seek(0)
    return start[128:] == b"DICM" or start[:2] in (b"\x02\x00", b"\x08\x00")


def read_header(file: BinaryIO) -> dict[str, str]:
    """The values of ``HEADER`` that are there and not blank. Raises BadImage."""
    with judged("DICOM header is damaged ({})"):
        header = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=list(HEADER.values()))
        values = {name: header.get(tag) for name, tag in HEADER.items()}
        told = {name: str(value).strip() for name, value in values.items() if value is not None}
    return {name: value for name, value in told.items() if value}


def read_dicom(file: BinaryIO, bits: int, burned_in: bool) -> Image:
    """Raises BadImage; also for an image whose pixels may show a name, unless ``burned_in``."""
    with judged("DICOM header is damaged or has no image ({})"):
        header = pydicom.dcmread(file, force=True)
        h, w, frames = int(header.Rows), int(header.Columns), int(header.get("NumberOfFrames") or 1)
        photometric = str(header.PhotometricInterpretation)
        meta = header.file_meta
        if "TransferSyntaxUID" not in meta:  # no file meta information: pydicom has found out by trying
            implicit, little = header.original_encoding
            meta.TransferSyntaxUID = (
                pydicom.uid.ImplicitVRLittleEndian if implicit
                else pydicom.uid.ExplicitVRLittleEndian if little
                else pydicom.uid.ExplicitVRBigEndian
            )  # fmt: skip
        coding, kind = str(meta.TransferSyntaxUID), str(header.get("SOPClassUID"))
        text = str(header.get("BurnedInAnnotation") or "").strip().upper()
    check_size(h * frames, w)
    if frames > 1:
        raise BadImage("DICOM with several frames")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise BadImage("DICOM that is not monochrome")
    if text == "YES" and not burned_in:
        raise BadImage("DICOM says that text is burned in (recipe.burned_in=keep takes it)")
    if kind in SECONDARY_CAPTURE and not burned_in:
        raise BadImage("DICOM secondary capture, which may show names (recipe.burned_in=keep takes it)")
    with judged("damaged or cut short ({} in DICOM decoding)"):
        try:
            stored = header.pixel_array
        except NotImplementedError as error:
            name, category, *_ = UID_dictionary.get(coding, ("", ""))  # any other text may come from anywhere
            known = name if category == "Transfer Syntax" else "unknown"
            raise BadImage(f"DICOM in a coding that cannot be read here ({known})") from error
        outside, inverted = _padding(header, stored), photometric == "MONOCHROME1"
        modality, step = _modality(header, stored)
        for values, window in _shown(header, modality, step, ~outside):
            filled = np.where(outside, window.high if inverted else window.low, values) if outside.any() else values
            image = store(filled, window, bits, _spacing(header), inverted)
            if not image.flat:
                return image
    raise BadImage(FLAT)


def _padding(header: Any, stored: np.ndarray) -> np.ndarray:
    """Where the file says that nothing was recorded (PS3.3 C.7.5.1.1.2), in stored values, before any rescaling."""
    value = header.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = header.get("PixelPaddingRangeLimit")
    ends = [int(value), int(value if limit is None else limit)]
    if header.PixelRepresentation == 1:  # some write the bits of a negative value as a number without a sign
        ends = [end - (1 << header.BitsAllocated if end >= 1 << (header.BitsAllocated - 1) else 0) for end in ends]
    return (stored >= min(ends)) & (stored <= max(ends))


def _modality(header: Any, stored: np.ndarray) -> tuple[np.ndarray, float]:
    """Modality values (PS3.3 C.11.1) and their step; without a whole rule the stored values."""
    if header.get("ModalityLUTSequence"):
        return apply_modality_lut(stored, header), 1
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    if slope in (None, "") or intercept in (None, ""):
        return stored, 1
    return apply_modality_lut(stored, header), abs(float(slope)) or 1


def _shown(header: Any, values: np.ndarray, step: float, inside: np.ndarray) -> Iterator[tuple[np.ndarray, Window]]:
    """Values, and which of them are black and white: by the file's first window, then by the image's own range."""
    center, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if center is not None and width is not None:
        function = str(header.get("VOILUTFunction") or "LINEAR").strip()
        if function == "LINEAR" and width > 1:
            yield values, Window(center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2, step)
        elif function == "LINEAR_EXACT" and width > 0:
            yield values, Window(center - width / 2, center + width / 2, step)
        elif function == "SIGMOID" and width > 0:  # 1 / (1 + exp(-x)), in a form that cannot overflow
            # The curve's slope in the middle is 1 / width, so a step of the source is a stored step there.
            yield 0.5 + 0.5 * np.tanh(2 * (values - center) / width), Window(0, 1, step / width)
    elif header.get("VOILUTSequence"):
        values = apply_voi(values.astype(np.int32), header)
    if inside.any():
        yield values, own_range(values[inside], step)


def _first(value: Any) -> float | None:
    """The first of one or several numbers; None where there is none."""
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return None if value in (None, "") or not math.isfinite(float(value)) else float(value)


def _spacing(header: Any) -> tuple[float, float] | None:
    """Millimetres between pixels in y and x; None where the file has no two lengths there."""
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            y, x = (float(value) for value in header.get(name))
        except (TypeError, ValueError):
            continue
        if 0 < y < math.inf and 0 < x < math.inf:
            return y, x
    return None
