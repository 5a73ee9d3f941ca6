"""Prepare a volume, its mask and its boxes after reading, as the recipe specifies."""

from dataclasses import replace

import numpy as np

from dira_scale.imaging.boxes import Box
from dira_scale.imaging.rejection import RejectedError
from dira_scale.imaging.settings import VolumeSettings
from dira_scale.imaging.volume import Annotated, Volume
from dira_scale.imaging.volumes.body import crop_to_body
from dira_scale.imaging.volumes.resample import resample
from dira_scale.imaging.volumes.values import FLAT


def prepare(volume: Volume, mask: np.ndarray | None, boxes: tuple[Box, ...], settings: VolumeSettings) -> Annotated:
    """Crop, clip and resample, in this order; mask [Z, Y, X] and boxes follow.

    Cropping comes first: it needs the air that clipping may remove, and saves resampling it. Clipping comes before
    resampling, so that metal does not bleed into its surroundings.

    Raises RejectedError if the result is too large or constant.
    """
    if settings.crop == "body":
        volume, mask, boxes = crop_to_body(volume, mask, boxes)
    if settings.clip is not None:
        volume = _clip(volume, *settings.clip)
    if settings.spacing is not None:
        volume, mask, boxes = resample(volume, mask, boxes, settings.spacing)
    return Annotated(volume, mask, boxes)


def _clip(volume: Volume, low: float, high: float) -> Volume:
    floor, ceiling = np.clip(np.rint((np.array([low, high]) - volume.offset) / volume.scale), -32768, 32767)
    voxels = np.clip(volume.voxels, np.int16(floor), np.int16(ceiling))
    if voxels.min() == voxels.max():
        raise RejectedError(FLAT)
    black, white = np.clip([volume.low, volume.high], floor, ceiling).tolist()
    return replace(volume, voxels=voxels, low=black, high=white) if black < white else replace(volume, voxels=voxels)
