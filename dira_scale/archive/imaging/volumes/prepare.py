"""Prepare a volume, its mask and its boxes after reading, as the recipe specifies."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.ndimage

from dira_scale.archive.imaging.boxes import Box, clip_box
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.settings import VolumeSettings
from dira_scale.archive.imaging.volume import Annotated, Volume
from dira_scale.archive.imaging.volumes.resample import resample
from dira_scale.archive.imaging.volumes.values import FLAT

SKIN = -500  # HU, halfway between air and tissue
MARGIN = 10.0  # mm
COARSE = 3.0  # mm; the body is sought in every n-th voxel: ten times faster, and the margin covers the error


def prepare(volume: Volume, mask: np.ndarray | None, boxes: tuple[Box, ...], settings: VolumeSettings) -> Annotated:
    """Crop to the body, clip, resample, crop to mask or boxes, in this order; mask [Z, Y, X] and boxes follow.

    Cropping to the body comes first: it needs the air that clipping may remove, and saves resampling it. Clipping comes
    before resampling, so that metal does not bleed into its surroundings.

    Raises RejectedError if the result is too large or constant, and where there is no mask or box to crop to.
    """
    if settings.crop == "body":
        volume, mask, boxes = crop_to_body(volume, mask, boxes)
    if settings.clip is not None:
        ends = (np.array(settings.clip) - volume.offset) / volume.scale
        floor, ceiling = np.clip(np.rint(ends), -32768, 32767)
        voxels = np.clip(volume.voxels, np.int16(floor), np.int16(ceiling))
        if voxels.min() == voxels.max():
            raise RejectedError(FLAT)
        black, white = np.clip([volume.low, volume.high], floor, ceiling).tolist()
        low, high = (black, white) if black < white else (volume.low, volume.high)
        volume = replace(volume, voxels=voxels, low=low, high=high)
    if settings.spacing is not None:
        volume, mask, boxes = resample(volume, mask, boxes, settings.spacing)
    if isinstance(settings.crop, Mapping):
        return _crop_around(Annotated(volume, mask, boxes), settings.crop)
    return Annotated(volume, mask, boxes)


def _crop_around(annotated: Annotated, crop: Mapping[str, Any]) -> Annotated:
    """Crop as ``VolumeSettings.crop`` says; at the volume's edges a block is moved inwards, and at most the volume."""
    volume, mask, boxes = annotated
    if "mask" in crop:
        if mask is None or not mask.any():
            raise RejectedError("no mask to crop to", decided_by="crop")
        first, last = _of_mask(mask)
        return _cut(annotated, first - crop["mask"], last + crop["mask"])
    if not boxes:
        raise RejectedError("no box to crop to", decided_by="crop")
    corners, sides = np.array([(box.z, box.y, box.x) for box in boxes]), np.array(crop["boxes"])
    ends = corners + [(box.d, box.h, box.w) for box in boxes]
    first = np.floor((corners.min(0) + ends.max(0) - sides) / 2)
    first = np.clip(first, 0, np.maximum(0, np.array(volume.shape) - sides))
    return _cut(annotated, first, first + sides)


def crop_to_body(volume: Volume, mask: np.ndarray | None, boxes: tuple[Box, ...]) -> Annotated:
    """The block around the largest connected part above -500 HU, with a margin of 10 mm.

    It is enlarged to include all boxes and mask voxels. A volume without such a part is unchanged.
    """
    steps = np.maximum(1, COARSE // np.array(volume.spacing)).astype(int)
    thin = volume.voxels.reshape(-1, *volume.shape)[0][tuple(slice(None, None, step) for step in steps)]
    parts, count = scipy.ndimage.label(thin > (SKIN - volume.offset) / volume.scale)
    if count == 0:
        return Annotated(volume, mask, boxes)
    largest = int(np.bincount(parts.ravel())[1:].argmax())
    block = scipy.ndimage.find_objects(parts)[largest]
    first, last = np.array([[side.start, side.stop] for side in block]).T * steps
    margin = np.ceil(MARGIN / np.array(volume.spacing))
    first, last = first - margin, last + margin
    if mask is not None and mask.any():
        inner, outer = _of_mask(mask)
        first, last = np.minimum(first, inner), np.maximum(last, outer)
    for box in boxes:
        corner = np.array([box.z, box.y, box.x])
        first = np.minimum(first, np.floor(corner))
        last = np.maximum(last, np.ceil(corner + np.array([box.d, box.h, box.w])))
    return _cut(Annotated(volume, mask, boxes), first, last)


def _of_mask(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First voxel and end of what ``mask`` has, along z, y and x."""
    edges = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return np.array([edge[0] for edge in edges]), np.array([edge[-1] + 1 for edge in edges])


def _cut(annotated: Annotated, first: np.ndarray, last: np.ndarray) -> Annotated:
    """The block from voxel ``first`` to before ``last``, as far as the volume has it, and the parts of boxes in it."""
    volume, mask, boxes = annotated
    first, last = np.clip([first, last], 0, volume.shape).astype(int)
    z, y, x = (slice(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True))
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first[::-1]
    moved = (b._replace(z=b.z - z.start, y=b.y - y.start, x=b.x - x.start) for b in boxes)
    shape = z.stop - z.start, y.stop - y.start, x.stop - x.start
    return Annotated(
        replace(volume, voxels=volume.voxels[..., z, y, x], affine=affine),
        None if mask is None else mask[z, y, x],
        tuple(box for box in (clip_box(box, shape) for box in moved) if min(box.d, box.h, box.w) > 0),
    )
