"""The projection geometry: from points of the body to image pixels.

Patient coordinates are millimetres: x to the patient's left (right in the image), y down from the lung apices,
z forward from the centre of the body.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]  # [size, size]


@dataclass(frozen=True)
class View:
    """The patient's pose before the detector: a point source, a rigid rotation (radians) and a shift (mm)."""

    size: int
    field: float = 400.0  # mm per side of the square detector
    yaw: float = 0.0  # about the long axis: shoulders turned
    pitch: float = 0.0  # about the transverse axis: leaning
    roll: float = 0.0  # in the image plane
    shift: tuple[float, float] = (0.0, 140.0)  # the patient's (x, y) at the detector's centre
    front: bool = True  # the detector is at the chest (PA) rather than at the back (AP)
    source: float = 1800.0  # mm from focus to detector

    @property
    def spacing(self) -> float:
        """Millimetres per pixel on the detector."""
        return self.field / self.size

    @cached_property
    def rotation(self) -> NDArray[np.float64]:
        (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (self.yaw, self.pitch, self.roll))
        yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return roll @ pitch @ yaw

    def pixels_per_mm(self, z: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Pixels per mm at depth z, including magnification."""
        distance = 130.0 - np.asarray(z) if self.front else 130.0 + np.asarray(z)  # from the detector
        return self.source / (self.source - distance) / self.spacing

    def project(self, points: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray]:
        """Points [..., 3] in mm -> rows, columns (pixels) and pixels per mm there, each [...]."""
        centred = np.asarray(points, float) - (*self.shift, 0.0)
        x, y, z = np.einsum("ij,...j->i...", self.rotation, centred)
        scale = self.pixels_per_mm(z)
        middle = (self.size - 1) / 2
        return middle + y * scale, middle + x * scale, scale

    @cached_property
    def grid(self) -> tuple[Map, Map]:
        """The patient's (x, y) in mm in the plane z = 0 for every pixel; each [size, size]."""
        line = (np.arange(self.size, dtype=np.float32) - np.float32((self.size - 1) / 2)) / np.float32(
            self.pixels_per_mm(0.0)
        )
        c, s = np.float32(np.cos(self.roll)), np.float32(np.sin(self.roll))
        x = c * line[None, :] + s * line[:, None] + np.float32(self.shift[0])
        y = c * line[:, None] - s * line[None, :] + np.float32(self.shift[1])
        return x, y

    def coarse(self, factor: int) -> "View":
        """Return the view with `factor` times larger pixels."""
        return replace(self, size=-(-self.size // factor))
