"""Masks, cropped as the views of their images are."""

import numpy as np

from dira_scale.data.requests import Request
from dira_scale.data.samples import Samples
from dira_scale.pixels.boxes import mirrored

NO_MASK = 255  # where the image has none, which is not the same as an empty one


def fill_masks(masks: np.ndarray, samples: Samples, request: Request, i: int) -> None:
    """Sample ``i``'s ``masks`` uint8 [V, *size]: its images' stored values, from the nearest pixel.

    Raises UserError, as ``Samples.damaged``.
    """
    for mask, images, geometry in zip(masks, request.images, request.geometries, strict=True):
        stored = samples.mask(int(images[i]))
        if stored is None:
            mask[...] = NO_MASK
            continue
        box, flip = geometry.crop(i)
        starts, extents = box[: mask.ndim], box[mask.ndim :]
        nearest = [
            (start + (np.arange(side) + 0.5) / side * extent).astype(int)
            for start, extent, side in zip(starts, extents, mask.shape, strict=True)
        ]
        mask[...] = mirrored(stored[np.ix_(*nearest)], flip)
