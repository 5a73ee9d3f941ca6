"""Pixels that may show a name: by what a DICOM header says of them, and by the look of them.

``recipe.burned_in`` says what becomes of such an image: ``refuse`` asks header and pixels, ``tagged`` the header alone,
``keep`` nobody. How often the pixels are misjudged, either way: ``docs/deidentification.md``.
"""

import cv2
import numpy as np
from pydicom.dataset import Dataset

from dira_scale.imaging.grey import GreyImage
from dira_scale.imaging.lettering import count_strokes
from dira_scale.imaging.rejection import RejectedError

STROKES = 6  # of a row of lettering; a side marker has fewer, a name or a date has more
SC, OTHERS = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1."
TEXT_CLASSES = {  # screens, scanned films and ultrasound write the patient's name into the picture (PS3.4 B.5, PS3.6 A)
    **dict.fromkeys([SC, *(f"{SC}.{kind}" for kind in range(1, 5))], "secondary capture"),
    **dict.fromkeys([OTHERS + kind for kind in ("3", "3.1", "6", "6.1", "6.2")], "ultrasound"),
}


def check_header(header: Dataset) -> None:
    """Raises RejectedError when the file says that text is burned in, or is of a kind that mostly has it.

    ``header`` needs BurnedInAnnotation, SOPClassUID and ImageType. That a file denies it (BurnedInAnnotation NO) does
    not help a kind that mostly has it: many machines write NO whatever they draw.
    """
    if str(header.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        raise RejectedError("DICOM says that text is burned in (recipe.burned_in=keep takes it)")
    if kind := TEXT_CLASSES.get(str(header.get("SOPClassUID"))):
        raise RejectedError(f"DICOM {kind}, which may show names (recipe.burned_in=keep takes it)")
    if "SCREEN" in str(header.get("ImageType") or "").upper():  # as in DERIVED\\SECONDARY\\SCREEN SAVE
        raise RejectedError("DICOM screen shot, which may show names (recipe.burned_in=keep takes it)")


def check_pixels(image: GreyImage) -> None:
    """Raises RejectedError when there seems to be a row of lettering in the image as it would be stored."""
    pixels = image.pixels
    if pixels.dtype != np.uint8:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / image.high)
    if count_strokes(pixels) >= STROKES:
        raise RejectedError("what looks like lettering is in the pixels (recipe.burned_in=tagged or keep takes it)")
