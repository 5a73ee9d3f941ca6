"""Crops that are the same for every image: for evaluation."""

from dataclasses import dataclass
from itertools import product
from typing import Annotated

import numpy as np

from dira_scale.base.arguments import Above, AtLeast, Within, check_fields
from dira_scale.train.data.geometry.crop import Geometry, boxes, in_stored


@dataclass(frozen=True)
class FixedCrop:
    """One box of an image or a volume, in any number of dimensions n.

    Attributes:
        position: for each axis, where the box lies: 0 at the image's start, 0.5 in its middle, 1 at its end.
        mirrored: the axes along which it is mirrored, counted from the last, which is -1.
        share: its extent on each axis, as a share of the image's.
        extent: for each axis, its extent in pixels instead (``step`` below); an image without so many is refused, or
            padded (``ViewSpec.pad``).
    """

    position: tuple[Annotated[float, Within(0, 1)], ...]
    mirrored: tuple[int, ...] = ()
    share: Annotated[float, Above(0, 1)] = 1.0
    extent: tuple[Annotated[int, AtLeast(1)], ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def of(self, sides: np.ndarray, step: np.ndarray | None = None) -> Geometry:
        """The crops of images with ``sides`` int64 [b, n]. ``step`` [b, n]: stored pixels for each of ``extent``'s;
        None: 1."""
        extents = np.rint(self.share * sides).astype(np.int64).clip(1)
        if self.extent is not None:
            extents = np.broadcast_to(np.array(self.extent), sides.shape)
            extents = extents if step is None else in_stored(extents, step)
        starts = np.rint(np.array(self.position) * np.trunc(sides - extents)).astype(np.int64)
        flip = np.zeros(sides.shape, bool)
        flip[:, list(self.mirrored)] = True
        return Geometry(boxes(starts, extents), flip)


def centre(dimensions: int, share: float = 1.0, extent: tuple[int, ...] | None = None) -> tuple[FixedCrop, ...]:
    """The middle of an image; by default all of it."""
    return (FixedCrop((0.5,) * dimensions, (), share, extent),)


def ten_crops(dimensions: int, share: float = 1.0, extent: tuple[int, ...] | None = None) -> tuple[FixedCrop, ...]:
    """The corners and the centre, then the same of the mirrored image: torchvision's ``TenCrop``, in its order.

    Volumes have 8 corners, hence 18 crops.
    """
    positions = [*product((0.0, 1.0), repeat=dimensions), (0.5,) * dimensions]
    upright = [FixedCrop(position, (), share, extent) for position in positions]
    mirrored = [FixedCrop((*first, 1 - last), (-1,), share, extent) for *first, last in positions]
    return (*upright, *mirrored)
