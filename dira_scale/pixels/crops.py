"""From a payload to its resized crops, in one call: what a loader does with a sample."""

from collections.abc import Sequence
from functools import partial
from time import perf_counter

import numpy as np

from dira_scale.pixels import planes, volumes
from dira_scale.pixels.arena import Arena
from dira_scale.pixels.boxes import Box, Crop
from dira_scale.pixels.bricks import Bricks
from dira_scale.pixels.headers import Payload

_ARENA = Arena()


def fill(
    payload: Payload,
    codec: str,
    crops: Sequence[Crop],
    views: Sequence[np.ndarray],
    shape: tuple[int, ...] | None = None,
    outside: int | None = None,
) -> tuple[float, float]:
    """Writes each crop of an image or a volume into its view [C, *size], of two or three dimensions.

    The views may be of a wider type than the pixels. ``shape`` is the manifest's (``codecs.decode``). For any number of
    threads: the interpreter's lock is released while decoding and resampling, and no threads are started. Each thread
    keeps its buffers, some three times the largest image it met. ``outside`` is the value of what lies beyond a volume;
    None: a crop must be within it.

    Returns the seconds of decoding and of resampling.
    Raises DecodeError when the payload is broken, not of this shape, or a box is not within the image.
    """
    began = perf_counter()
    _ARENA.reset()
    boxes, plane = [crop.box for crop in crops], views[0].ndim == 3
    if plane:
        sizes = [view.shape[-1] for view in views]
        parts = planes.decode_crops(payload, codec, boxes, sizes, shape, _ARENA.empty)
    else:
        parts = volumes.decode_crops(payload, codec, boxes, shape, _ARENA.empty, outside)
    decoded = perf_counter()
    for (pixels, box), crop, view in zip(parts, crops, views, strict=True):
        if plane:
            planes.resize(pixels, box, view.shape[-1], crop.flip, view, _ARENA.empty)
        else:
            _fill_volume(pixels, box, crop, view)
    return decoded - began, perf_counter() - decoded


def fill_from_bricks(
    bricks: Bricks, crops: Sequence[Crop], views: Sequence[np.ndarray], outside: int | None = None
) -> tuple[float, float, float]:
    """Fill crops of a volume in bricks, of which those are read that the crops need.

    Returns the seconds of reading, decoding and resampling. Raises DecodeError where a box is not within the volume,
    BrickError where a brick is damaged.
    """
    began = perf_counter()
    _ARENA.reset()
    cut = partial(bricks.cut, new=_ARENA.empty)
    parts = volumes.cut(cut, [crop.box for crop in crops], bricks.shape[-3:], outside)
    decoded = perf_counter()
    for (voxels, box), crop, view in zip(parts, crops, views, strict=True):
        _fill_volume(voxels, box, crop, view)
    return bricks.seconds, decoded - began - bricks.seconds, perf_counter() - decoded


def _fill_volume(voxels: np.ndarray, box: Box, crop: Crop, view: np.ndarray) -> None:
    volumes.resize(voxels, box, crop.flip, view.swapaxes(-1, -2) if crop.transposed else view)
