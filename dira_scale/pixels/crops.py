"""From a payload to its resized crops, in one call: what a loader does with a sample."""

from collections.abc import Sequence
from time import perf_counter

import numpy as np

from dira_scale.pixels.arena import Arena
from dira_scale.pixels.codecs import Box, decode_crops
from dira_scale.pixels.headers import Payload
from dira_scale.pixels.resize import resize

_ARENA = Arena()


def fill(
    payload: Payload,
    codec: str,
    boxes: Sequence[Box],
    flips: Sequence[bool],
    views: Sequence[np.ndarray],
    shape: tuple[int, ...] | None = None,
) -> tuple[float, float]:
    """Writes the crop ``boxes[v]``, mirrored left to right where ``flips[v]``, into ``views[v]`` [C, size, size].

    The views may be of a wider type than the pixels. ``shape`` is the manifest's (``codecs.decode``). For any number of
    threads: the interpreter's lock is released while decoding and resampling, and no threads are started. Each thread
    keeps its buffers, some three times the largest image it met.

    Returns the seconds of decoding and of resampling.
    Raises DecodeError when the payload is broken, not of this shape, or a box is not within the image.
    """
    began = perf_counter()
    _ARENA.reset()
    crops = decode_crops(payload, codec, boxes, views[0].shape[-1], shape, _ARENA.empty)
    decoded = perf_counter()
    for (pixels, box), flip, view in zip(crops, flips, views, strict=True):
        resize(pixels, box, view.shape[-1], flip, view, _ARENA.empty)
    return decoded - began, perf_counter() - decoded
