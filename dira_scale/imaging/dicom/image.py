"""One frame of a DICOM file as one grey image."""

from typing import BinaryIO

import numpy as np

from dira_scale.imaging.burned_in import check_header
from dira_scale.imaging.dicom.frames import Decoded, DicomFile
from dira_scale.imaging.dicom.values import shown, spacing
from dira_scale.imaging.grey import FLAT, Image, Window, store
from dira_scale.imaging.rejection import BadImage, judged


def read_dicom(file: BinaryIO, bits: int, burned_in: str = "refuse", number: int = 0) -> Image:
    """Frame ``number`` (from 0). Raises BadImage; also where the header warns of text, unless ``burned_in=keep``."""
    dicom = DicomFile(file)
    if burned_in != "keep":
        check_header(dicom.header)
    frame = dicom.frame(number)
    with judged("damaged or cut short ({} in DICOM decoding)"):
        return _image(frame, bits)


def _image(frame: Decoded, bits: int) -> Image:
    if frame.top is not None:
        image = store(frame.values, Window(0, frame.top, 1), bits, spacing(frame.header))
        if image.flat:
            raise BadImage(FLAT)
        return image
    for values, window in shown(frame.header, frame.values, frame.step, ~frame.padding):
        black = window.high if frame.inverted else window.low
        filled = np.where(frame.padding, black, values) if frame.padding.any() else values
        image = store(filled, window, bits, spacing(frame.header), frame.inverted)
        if not image.flat:
            return image
    raise BadImage(FLAT)
