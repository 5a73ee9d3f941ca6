"""Masks, cropped as the views of their images are."""

import numpy as np

from dira_scale.data.requests import Request
from dira_scale.data.samples import Samples
from dira_scale.pixels.codecs import DecodeError, decode

NO_MASK = 255  # where the image has none, which is not the same as an empty one


def fill_masks(masks: np.ndarray, samples: Samples, request: Request, i: int) -> None:
    """Sample ``i``'s ``masks`` uint8 [V, S, S]: its images' stored values, from the nearest pixel.

    Raises UserError, as ``Samples.damaged``.
    """
    for mask, images, geometry in zip(masks, request.images, request.geometries, strict=True):
        image = int(images[i])
        payload = samples.read_mask(image)
        if payload is None:
            mask[...] = NO_MASK
            continue
        try:
            stored = decode(payload, "png")
        except DecodeError as error:
            raise samples.damaged(image, error) from error
        y, x, h, w = geometry.box[i].tolist()
        centre = (np.arange(len(mask)) + 0.5) / len(mask)
        cropped = stored[np.ix_((y + centre * h).astype(int), (x + centre * w).astype(int))]
        mask[...] = cropped[:, ::-1] if geometry.flip[i] else cropped
