"""Masks, cropped as the views of their images are."""

from collections.abc import Sequence
from functools import reduce

import numpy as np

from dira_scale.data.batch import IGNORE
from dira_scale.data.requests import Request
from dira_scale.data.samples import Samples
from dira_scale.pixels.boxes import Crop, mirrored


def fill_masks(masks: np.ndarray, samples: Samples, request: Request, i: int) -> None:
    """Sample ``i``'s ``masks`` int16 [V, *size]: its images' stored values, from the nearest pixel; ``IGNORE`` beyond
    an image, and where it has no mask.

    Raises UserError, as ``Samples.damaged``.
    """
    seen = [int(images[i]) for images in request.images]
    crops = [geometry.crop(i) for geometry in request.geometries]
    for image in dict.fromkeys(seen):  # views of one image share its decoding
        views = [view for view in range(len(masks)) if seen[view] == image]
        targets = [masks[view].swapaxes(-1, -2) if crops[view].transposed else masks[view] for view in views]
        _fill(targets, samples, image, [crops[view] for view in views])


def _fill(masks: Sequence[np.ndarray], samples: Samples, image: int, crops: Sequence[Crop]) -> None:
    """``masks``, each [*size] before the last two axes change places, of the ``crops`` of one image."""
    sides = samples.mask_sides(image)
    nearest = [
        [
            np.floor(start + (np.arange(n) + 0.5) / n * extent).astype(int)
            for start, extent, n in zip(crop.box, crop.box[mask.ndim :], mask.shape, strict=False)
        ]
        for mask, crop in zip(masks, crops, strict=True)
    ]
    within = [[at.clip(0, side - 1) for at, side in zip(axes, sides, strict=True)] for axes in nearest]
    parts = samples.mask_parts(image, [tuple(slice(int(at[0]), int(at[-1]) + 1) for at in axes) for axes in within])
    if parts is None:
        for mask in masks:
            mask[...] = IGNORE
        return
    for mask, crop, values, axes, wanted in zip(masks, crops, parts, within, nearest, strict=True):
        shown = values[np.ix_(*(at - at[0] for at in axes))]
        beyond = [(at < 0) | (at >= side) for at, side in zip(wanted, sides, strict=True)]
        if any(axis.any() for axis in beyond):
            shown = np.where(reduce(np.logical_or.outer, beyond), np.int16(IGNORE), shown)
        mask[...] = mirrored(shown, crop.flip)
