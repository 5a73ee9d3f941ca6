"""A volume as stored: integers, their position in the patient, and the values of black and white."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dira_scale.archive.imaging.boxes import Box


@dataclass(frozen=True)
class Volume:
    """One decoded volume, its axes permuted and flipped (not interpolated) to DICOM's axial order.

    Attributes:
        voxels: int16 [Z, Y, X], or [C, Z, Y, X] for several channels; z runs to the head, y to the back, x to the left.
        affine: float64 [4, 4], NIfTI's: from (x, y, z) indices to millimetres to the right, front and head (RAS+).
        low, high: the stored values that become 0 and 1.
        ranges: of channels with ranges of their own, ``low`` and ``high`` of each; NaN of one that is lacking.
        scale, offset: source value = scale * stored + offset; 1 and 0 unless the values did not fit int16.
        filled: slices that the source lacks and that were interpolated from their neighbours.
        notes: what should be told of it, and counted.
    """

    voxels: np.ndarray
    affine: np.ndarray
    low: float
    high: float
    scale: float = 1.0
    offset: float = 0.0
    filled: int = 0
    ranges: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    notes: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxels in z, y and x."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Z, Y, X."""
        z, y, x = self.voxels.shape[-3:]
        return z, y, x


class Annotated(NamedTuple):
    """A volume with its mask, uint8 [Z, Y, X], and the boxes of its findings, in voxels."""

    volume: Volume
    mask: np.ndarray | None
    boxes: tuple[Box, ...]
