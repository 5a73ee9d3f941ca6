"""Masks, cropped as the views of their images are."""

import numpy as np

from dira_scale.data.batch import IGNORE
from dira_scale.data.requests import Request
from dira_scale.data.samples import Samples
from dira_scale.pixels.boxes import mirrored


def fill_masks(masks: np.ndarray, samples: Samples, request: Request, i: int) -> None:
    """Sample ``i``'s ``masks`` int16 [V, *size]: its images' stored values, from the nearest pixel; else ``IGNORE``.

    Raises UserError, as ``Samples.damaged``.
    """
    shown = [int(images[i]) for images in request.images]
    stored = {image: samples.mask(image) for image in dict.fromkeys(shown)}  # views of one image share its decoding
    for mask, image, geometry in zip(masks, shown, request.geometries, strict=True):
        if (values := stored[image]) is None:
            mask[...] = IGNORE
            continue
        box, flip = geometry.crop(i)
        starts, extents = box[: mask.ndim], box[mask.ndim :]
        nearest = [
            (start + (np.arange(side) + 0.5) / side * extent).astype(int)
            for start, extent, side in zip(starts, extents, mask.shape, strict=True)
        ]
        mask[...] = mirrored(values[np.ix_(*nearest)], flip)
