"""One frame of a DICOM file as one grey image."""

from typing import BinaryIO

import numpy as np

from dira_scale.imaging.burned_in import check_header
from dira_scale.imaging.dicom.frames import Decoded, DicomFile
from dira_scale.imaging.dicom.values import spacing, windowed
from dira_scale.imaging.grey import FLAT, GreyImage, GreyWindow, store
from dira_scale.imaging.rejection import RejectedError, rejects


def read_dicom(file: BinaryIO, bits: int, burned_in: str = "refuse", number: int = 0) -> GreyImage:
    """Frame ``number`` (from 0).

    Raises RejectedError, also if the header indicates burned-in text, unless ``burned_in=keep``.
    """
    dicom = DicomFile(file)
    if burned_in != "keep":
        check_header(dicom.header)
    frame = dicom.frame(number)
    with rejects("damaged or cut short ({} in DICOM decoding)"):
        return _image(frame, bits)


def _image(frame: Decoded, bits: int) -> GreyImage:
    if frame.top is not None:
        image = store(frame.values, GreyWindow(0, frame.top, 1), bits, spacing(frame.header))
        if image.flat:
            raise RejectedError(FLAT)
        return image
    for values, window in windowed(frame.header, frame.values, frame.step, ~frame.padding):
        black = window.high if frame.inverted else window.low
        filled = np.where(frame.padding, black, values) if frame.padding.any() else values
        image = store(filled, window, bits, spacing(frame.header), frame.inverted)
        if not image.flat:
            return image
    raise RejectedError(FLAT)
