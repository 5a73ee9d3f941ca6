"""What a recipe makes of a volume, its mask and its boxes after reading."""

from dataclasses import replace

import numpy as np

from dira_scale.imaging.rejection import RejectedError
from dira_scale.imaging.volume import Volume
from dira_scale.imaging.volumes.body import crop_to_body
from dira_scale.imaging.volumes.resample import resample
from dira_scale.imaging.volumes.values import FLAT
from dira_scale.ingest.recipe import Recipe
from dira_scale.ingest.sources.base import Box


def prepare(
    volume: Volume, mask: np.ndarray | None, boxes: tuple[Box, ...], recipe: Recipe
) -> tuple[Volume, np.ndarray | None, tuple[Box, ...]]:
    """Crop, clip and resample as ``recipe.volume`` says, in this order; mask [Z, Y, X] and boxes follow.

    Cropping goes first, as it needs the air that clipping may remove, and spares resampling it. Clipping goes before
    resampling, so that metal does not shine into its surroundings.

    Raises RejectedError for a result too large, or flat.
    """
    keys = recipe.volume
    if keys.crop == "body":
        volume, mask, boxes = crop_to_body(volume, mask, boxes)
    if keys.clip is not None:
        volume = _clip(volume, *keys.clip)
    if keys.spacing is not None:
        volume, mask, boxes = resample(volume, mask, boxes, keys.spacing)
    return volume, mask, boxes


def _clip(volume: Volume, low: float, high: float) -> Volume:
    floor, ceiling = np.clip(np.rint((np.array([low, high]) - volume.offset) / volume.scale), -32768, 32767)
    voxels = np.clip(volume.voxels, np.int16(floor), np.int16(ceiling))
    if voxels.min() == voxels.max():
        raise RejectedError(FLAT)
    black, white = np.clip([volume.low, volume.high], floor, ceiling).tolist()
    return replace(volume, voxels=voxels, low=black, high=white) if black < white else replace(volume, voxels=voxels)
