"""The one filter that resizes crops on the CPU."""

import numpy as np
from PIL import Image

from dira_scale.data.codecs import Box


def resize(pixels: np.ndarray, box: Box, size: int) -> np.ndarray:
    """The part ``box`` (y, x, h, w) of ``pixels`` [H, W] or [H, W, C], resized: [C, size, size] of the same type.

    Pillow's antialiased bilinear filter in float32, rounded; pixels outside the box do not contribute.
    """
    y, x, h, w = box
    channels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    resized = [
        Image.fromarray(channel.astype(np.float32)).resize(
            (size, size), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h)
        )
        for channel in channels
    ]
    return np.rint(np.stack([np.asarray(channel) for channel in resized])).astype(pixels.dtype)
