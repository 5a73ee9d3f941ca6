"""The location of a finding: a box in pixels or voxels, or a ball in millimetres."""

from typing import NamedTuple


class Box(NamedTuple):
    """A finding's rectangle (in 3D: block) in pixels of the image as read; ``z, y, x`` is its first corner."""

    label: str
    y: float
    x: float
    h: float
    w: float
    z: float = 0.0
    d: float = 1.0


class Ball(NamedTuple):
    """A finding's centre (mm to the right, front and head) and diameter (mm)."""

    label: str
    middle: tuple[float, float, float]
    diameter: float


def clip_box(box: Box, shape: tuple[int, ...]) -> Box:
    """The part of a box inside an image of ``shape`` (Z, Y, X or Y, X); findings may extend beyond its edges."""
    depth, height, width = (1, *shape)[-3:]
    z, y, x = max(0.0, box.z), max(0.0, box.y), max(0.0, box.x)
    far = min(depth, box.z + box.d), min(height, box.y + box.h), min(width, box.x + box.w)
    return Box(box.label, y=y, x=x, h=far[1] - y, w=far[2] - x, z=z, d=far[0] - z)
