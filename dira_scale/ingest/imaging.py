"""The only place that decodes source formats: PNG and JPEG (``raster.py``), DICOM (``dicom.py``), to one grey channel.

Rules, so that two readers of one file agree:

* Colour becomes luminance (ITU-R BT.601: .299 R + .587 G + .114 B, which leaves grey stored as RGB as it is; a colour
  JPEG's own luma channel is exactly that). Palettes are looked up first, transparency is dropped, EXIF orientation is
  applied.
* An image has a *window*, two values that are shown as black and white. DICOM: the first VOI window of the file, in
  modality values (after rescale slope and intercept), as PS3.3 C.11.2.1.2 and C.11.2.1.3 define it. 8 bits: 0 and 255.
  Otherwise (16-bit PNG; DICOM without a window, or with one that is narrower than two values or leaves all pixels
  alike): the image's own smallest and largest value.
* DICOM pixel padding is black and does not count for the image's own range.
* Values are clipped to the window and stored as whole numbers from 0 (``low``) to ``high``. With 8 bits ``high`` is
  255. With 16 bits a stored step is a step of the source (12-bit data keep their 4096 values exactly), so ``high`` is
  the window's width in such steps, at most 65535. MONOCHROME1 is turned round, so that low is always black.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dira_scale.ingest.dicom import is_dicom, read_dicom
from dira_scale.ingest.grey import Image
from dira_scale.ingest.raster import read_mask as read_raster_mask
from dira_scale.ingest.raster import read_raster
from dira_scale.ingest.verdict import BadImage, judged


def read_image(path: Path, bits: int, burned_in: bool = False) -> Image:
    """Decode ``path`` to ``bits`` (8 or 16). ``burned_in``: take DICOM whose pixels may show a name, too.

    Raises:
        BadImage: the file cannot become a sample.
        OSError, MemoryError: it could not be read now, which is no fault of the file.
    """
    with _opened(path) as file:
        return read_dicom(file, bits, burned_in) if is_dicom(file) else read_raster(file, bits)


def read_mask(path: Path) -> np.ndarray:
    """Decode a PNG mask to uint8 [H, W], its values as they are. Raises as ``read_image``."""
    with _opened(path) as file:
        return read_raster_mask(file)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with judged("the file cannot be read ({})"):
            file = path.open("rb")
        with file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # decoders warn of odd headers by their values
            if os.fstat(file.fileno()).st_size == 0:
                raise BadImage("the file is empty")
            yield file
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
