"""A volume's axial slices as grey images, as they are read: the front is up, the patient's right is on the left."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dira_scale.imaging.boxes import Box
from dira_scale.imaging.grey import GreyImage, GreyWindow, store
from dira_scale.imaging.volume import Annotated, Volume
from dira_scale.imaging.volumes.prepare import SKIN
from dira_scale.imaging.volumes.resample import resample

FAINT = 0.1  # of the window: what is below may be the noise of the background (other modalities than CT)
TISSUE = 0.01  # smallest share of tissue in a slice that is not empty
SQUARE = 0.01  # relative difference of height and width up to which a pixel counts as square


class Slice(NamedTuple):
    """One slice.

    Attributes:
        z: its index in the volume; 0 is nearest to the feet.
        position: of its centre, in millimetres towards the head, in the scanner's coordinates.
        mask: uint8 [H, W].
        boxes: of the findings in it.
        empty: it shows less than 1 % of tissue (CT: above -500 HU; others: above a tenth of the window), or nothing.
    """

    z: int
    position: float
    image: GreyImage
    mask: np.ndarray | None
    boxes: tuple[Box, ...]
    empty: bool


def with_square_pixels(volume: Volume, mask: np.ndarray | None, boxes: tuple[Box, ...]) -> Annotated:
    """The volume at the finer of its two spacings within a slice, so that slices are not distorted.

    Raises RejectedError if the result would be too large.
    """
    z, y, x = volume.spacing
    if abs(y - x) <= SQUARE * min(y, x):
        return Annotated(volume, mask, boxes)
    return resample(volume, mask, boxes, (z, min(y, x), min(y, x)))


def axial_slices(
    volume: Volume, mask: np.ndarray | None, boxes: tuple[Box, ...], every: int, bits: int, modality: str
) -> Iterator[Slice]:
    """Every ``every``-th slice of a volume of one channel, from the feet to the head.

    ``low`` and ``high`` of the volume are the window: the values that become black and white in ``bits`` bits.
    """
    window = GreyWindow(volume.low, volume.high, 1)
    skin = (SKIN - volume.offset) / volume.scale
    floor = skin if modality == "CT" else volume.low + FAINT * (volume.high - volume.low)
    depth, height, width = volume.shape
    for z in range(0, depth, every):
        plane = volume.voxels[z]
        image = store(plane, window, bits, volume.spacing[1:])
        yield Slice(
            z=z,
            position=float(volume.affine[2] @ [(width - 1) / 2, (height - 1) / 2, z, 1]),
            image=image,
            mask=None if mask is None else mask[z],
            boxes=tuple(box._replace(z=0.0, d=1.0) for box in boxes if z in _slices_of(box)),
            empty=image.flat or float(np.mean(plane > floor)) < TISSUE,
        )


def _slices_of(box: Box) -> range:
    """The slices whose middle is inside the box; for a thinner box, the one that its own middle is in."""
    first, end = math.ceil(box.z - 0.5), math.ceil(box.z + box.d - 0.5)
    middle = math.floor(box.z + box.d / 2)
    return range(first, end) if first < end else range(middle, middle + 1)
