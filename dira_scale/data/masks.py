"""Masks, cropped as the views of their images are."""

from functools import reduce

import numpy as np

from dira_scale.data.batch import IGNORE
from dira_scale.data.requests import Request
from dira_scale.data.samples import Samples
from dira_scale.pixels.boxes import mirrored


def fill_masks(masks: np.ndarray, samples: Samples, request: Request, i: int) -> None:
    """Sample ``i``'s ``masks`` int16 [V, *size]: its images' stored values, from the nearest pixel; ``IGNORE`` beyond
    an image, and where it has no mask.

    Raises UserError, as ``Samples.damaged``.
    """
    seen = [int(images[i]) for images in request.images]
    stored = {image: samples.mask(image) for image in dict.fromkeys(seen)}  # views of one image share its decoding
    for mask, image, geometry in zip(masks, seen, request.geometries, strict=True):
        if (values := stored[image]) is None:
            mask[...] = IGNORE
            continue
        box, flip, transposed = geometry.crop(i)
        mask = mask.swapaxes(-1, -2) if transposed else mask
        starts, extents = box[: mask.ndim], box[mask.ndim :]
        nearest = [
            np.floor(start + (np.arange(side) + 0.5) / side * extent).astype(int)
            for start, extent, side in zip(starts, extents, mask.shape, strict=True)
        ]
        shown = values[np.ix_(*(at.clip(0, side - 1) for at, side in zip(nearest, values.shape, strict=True)))]
        beyond = [(at < 0) | (at >= side) for at, side in zip(nearest, values.shape, strict=True)]
        if any(axis.any() for axis in beyond):
            shown = np.where(reduce(np.logical_or.outer, beyond), np.int16(IGNORE), shown)
        mask[...] = mirrored(shown, flip)
