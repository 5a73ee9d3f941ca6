"""Voxel positions in the patient: checking a grid, turning it to DICOM's axial order, mapping boxes between grids.

An affine is NIfTI's: from (x, y, z) indices (an array's last axis first) to millimetres to the right, front and head
(RAS+). Box coordinates are continuous and start at the first voxel's outer edge: voxel v spans v to v + 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from etils.epy import lazy_imports

from dira_scale.archive.imaging.boxes import Box
from dira_scale.archive.imaging.rejection import GeometryError, RejectedError
from dira_scale.dataset.pixels.limits import MAX_SPACING, MAX_VOXELS, MIN_SPACING

with lazy_imports():
    from nibabel import orientations

AXIAL = "LPS"  # x to the patient's left, y to the back, z to the head
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's and ITK's millimetres to NIfTI's
RIGHT_ANGLE = 1e-3  # largest cosine between two axes that counts as a right angle: half a voxel over 500


@dataclass(frozen=True)
class Grid:
    """The positions of a volume's voxels.

    Attributes:
        shape: the array's axes in order; Z, Y, X once turned.
        affine: float64 [4, 4].
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        """Millimetres between voxels along z, y and x."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)[::-1]

    @property
    def sheared(self) -> bool:
        """Return whether two axes are not at right angles, as with gantry tilt."""
        unit = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        return bool(np.abs(unit.T @ unit - np.eye(3)).max() > RIGHT_ANGLE)

    def check(self) -> "Grid":
        """Return self. Raises RejectedError for a geometry that no scanner makes, before anything is allocated."""
        if min(self.shape) < 1:
            raise RejectedError("no voxels")
        if np.prod(self.shape, dtype=object) > MAX_VOXELS:
            raise RejectedError(f"more than {MAX_VOXELS} voxels")
        with np.errstate(over="ignore"):
            stored = self.affine.astype(np.float32)  # as in the manifest
        if not np.isfinite(stored).all():
            raise GeometryError("orientation or position is not a number")
        if not ((self.spacing >= MIN_SPACING) & (self.spacing <= MAX_SPACING)).all():
            raise GeometryError("distance between voxels that is zero, negative or absurd")
        unit = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        if abs(np.linalg.det(unit)) < 0.1:  # a shear of more than 80 degrees
            raise GeometryError("axes that do not span space")
        return self

    def turned(self) -> "Grid":
        """The grid in DICOM's axial order, by the closest axes."""
        turn = _turn(self.affine)
        x_y_z = self.shape[::-1]
        z, y, x = (x_y_z[int(np.flatnonzero(turn[:, 0] == axis)[0])] for axis in (2, 1, 0))
        return Grid((z, y, x), self.affine @ orientations.inv_ornt_aff(turn, x_y_z))

    def same_as(self, other: "Grid") -> bool:
        """Return whether shapes are equal and corners within a tenth of the smallest spacing (files round affines)."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*([0, side - 1] for side in self.shape[::-1]), [1])).reshape(4, -1)
        apart = np.abs((self.affine - other.affine) @ corners).max()
        return bool(apart <= 0.1 * min(self.spacing.min(), other.spacing.min()))

    def box_from(self, box: Box, other: "Grid") -> Box:
        """A box in voxels of ``other`` as the smallest enclosing box in voxels of this grid."""
        to_here = np.linalg.inv(self.affine) @ other.affine
        size = np.array([box.w, box.h, box.d])
        middle = np.array([box.x, box.y, box.z]) + size / 2 - 0.5
        return _box(box.label, to_here[:3, :3] @ middle + to_here[:3, 3], np.abs(to_here[:3, :3]) @ size)

    def box_around(self, label: str, point: Sequence[float], diameter: float) -> Box:
        """The bounding box of a ball with its centre in mm (RAS+) and diameter in mm."""
        middle = np.linalg.solve(self.affine, [*point, 1])[:3]
        return _box(label, middle, diameter / self.spacing[::-1])


def _box(label: str, middle: np.ndarray, size: np.ndarray) -> Box:
    """A box from the indices (x, y, z) of its centre."""
    x, y, z = (float(value) for value in middle + 0.5 - size / 2)
    w, h, d = (float(value) for value in size)
    return Box(label, y=y, x=x, h=h, w=w, z=z, d=d)


def turn(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``voxels`` [Z, Y, X] or [C, Z, Y, X] and their affine, turned as ``Grid.turned``; a view, not interpolated."""
    z, y, x = voxels.shape[-3:]
    grid = Grid((z, y, x), affine)
    x_y_z = np.moveaxis(voxels, (-1, -2, -3), (0, 1, 2))
    by = _turn(affine)
    flipped = x_y_z[tuple(slice(None, None, int(direction)) for direction in by[:, 1])]
    return np.moveaxis(flipped, (0, 1, 2), [-1 - int(axis) for axis in by[:, 0]]), grid.turned().affine


def _turn(affine: np.ndarray) -> np.ndarray:
    """For x, y and z: the axis of the axial order that it becomes, and 1 or -1 for its direction."""
    turn: np.ndarray = orientations.ornt_transform(
        orientations.io_orientation(affine), orientations.axcodes2ornt(AXIAL)
    )
    return turn
