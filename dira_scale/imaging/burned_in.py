"""Detect pixels that may show a name: from the DICOM header, and from the pixels themselves.

``recipe.burned_in`` selects the checks: ``refuse`` header and pixels, ``tagged`` the header only, ``keep`` none. Error
rates of the pixel check, both ways: ``docs/evidence/proof.md``.
"""

import cv2
import numpy as np
from pydicom.dataset import Dataset

from dira_scale.imaging.grey import GreyImage
from dira_scale.imaging.lettering import count_strokes
from dira_scale.imaging.rejection import RejectedError

STROKES = 6  # in a row of lettering; a side marker has fewer, a name or a date has more
SC, STORAGE = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1."
TEXT_CLASSES = {  # screenshots, scanned films and ultrasound often show the patient's name (PS3.4 B.5, PS3.6 A)
    **dict.fromkeys([SC, *(f"{SC}.{kind}" for kind in range(1, 5))], "secondary capture"),
    **dict.fromkeys([STORAGE + kind for kind in ("3", "3.1", "6", "6.1", "6.2")], "ultrasound"),
}


def check_header(header: Dataset) -> None:
    """Raises RejectedError if the file declares burned-in text, or is of a class that usually has it.

    ``header`` needs BurnedInAnnotation, SOPClassUID and ImageType. For such a class BurnedInAnnotation NO is ignored:
    many machines write NO regardless of what they draw.
    """
    if str(header.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        raise RejectedError("DICOM says that text is burned in (recipe.burned_in=keep accepts it)")
    if kind := TEXT_CLASSES.get(str(header.get("SOPClassUID"))):
        raise RejectedError(f"DICOM {kind}, which may show names (recipe.burned_in=keep accepts it)")
    if "SCREEN" in str(header.get("ImageType") or "").upper():  # as in DERIVED\\SECONDARY\\SCREEN SAVE
        raise RejectedError("DICOM screen shot, which may show names (recipe.burned_in=keep accepts it)")


def check_pixels(image: GreyImage) -> None:
    """Raises RejectedError if the image, as it would be stored, seems to contain a row of lettering."""
    pixels = image.pixels
    if pixels.dtype != np.uint8:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / image.high)
    if count_strokes(pixels) >= STROKES:
        raise RejectedError("the pixels seem to contain lettering (recipe.burned_in=tagged or keep accepts it)")
