"""The only place that decodes images to grey: DICOM (``dicom/``); PNG, JPEG, TIFF, NumPy (``raster.py``).

Rules:

* Colour becomes luminance (ITU-R BT.601: .299 R + .587 G + .114 B, which leaves grey stored as RGB unchanged; a colour
  JPEG's luma channel is exactly that). Palettes are looked up first, transparency is dropped, EXIF orientation is
  applied.
* An image has a *window*, two values displayed as black and white. DICOM: the first VOI window of the file, in
  modality values (after rescale slope and intercept), as defined in PS3.3 C.11.2.1.2 and C.11.2.1.3. 8 bits: 0 and
  255. Otherwise (16-bit PNG, wider TIFF and arrays; DICOM without a window, or with one narrower than two values or
  under which all pixels are equal): the image's own smallest and largest value.
* DICOM pixel padding is black and excluded from the image's own range.
* Values are clipped to the window and stored as integers from 0 (``low``) to ``high``. With 8 bits ``high`` is 255.
  With 16 bits a stored step is a source step (12-bit data keep their 4096 values exactly), so ``high`` is the window's
  width in such steps, at most 65535. MONOCHROME1 is inverted, so that low is always black.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dira_scale.imaging.burned_in import check_pixels
from dira_scale.imaging.dicom import is_dicom, read_dicom
from dira_scale.imaging.files import opened
from dira_scale.imaging.grey import GreyImage
from dira_scale.imaging.raster import read_mask as read_raster_mask
from dira_scale.imaging.raster import read_raster
from dira_scale.imaging.rejection import RejectedError
from dira_scale.imaging.settings import ReadSettings


def read_image(path: Path, bits: int, burned_in: str = "refuse", number: int = 0) -> GreyImage:
    """Decode ``path`` to ``bits`` (8 or 16); of multi-frame DICOM, frame ``number`` (from 0).

    ``burned_in``: see ``ReadSettings``.

    Raises:
        RejectedError: the file cannot become a sample.
        OSError, MemoryError: it could not be read now; not the file's fault.
    """
    with opened(path) as file:
        image = read_dicom(file, bits, burned_in, number) if is_dicom(file) else read_raster(file, bits)
    if burned_in == "refuse":
        check_pixels(image)
    return image


@dataclass(frozen=True)
class Frame:
    """One frame of a DICOM file, an ``Input``."""

    path: Path
    number: int  # from 0

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self, settings: ReadSettings) -> GreyImage:
        """Raises as ``read_image``."""
        if settings.dims == 3:
            raise RejectedError("a frame of a DICOM file is not a volume (recipe=volumes reads such files whole)")
        return read_image(self.path, settings.bits, settings.burned_in, self.number)


def read_mask(path: Path) -> np.ndarray:
    """Decode a PNG mask to uint8 [H, W], values unchanged. Raises as ``read_image``."""
    with opened(path) as file:
        return read_raster_mask(file)
