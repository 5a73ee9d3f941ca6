"""From a payload to its resized crops, in one call: what a loader does with a sample.

Images are cut out and resized in ``planes``, volumes here, by the same filter.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import numpy as np

from dira_scale.dataset.pixels import planes
from dira_scale.dataset.pixels.arena import Arena
from dira_scale.dataset.pixels.boxes import Crop, CropBox, PixelSlices, around, inside, mirrored
from dira_scale.dataset.pixels.bricks import Bricks
from dira_scale.dataset.pixels.codecs import DecodeError, decode
from dira_scale.dataset.pixels.headers import Payload

_ARENA = Arena()


def fill(
    payload: Payload,
    codec: str,
    crops: Sequence[Crop],
    views: Sequence[np.ndarray],
    shape: tuple[int, ...] | None = None,
    outside: np.ndarray | None = None,
) -> tuple[float, float]:
    """Writes each crop of an image or a volume into its view [C, *size], of two or three dimensions.

    The views may be of a wider type than the pixels. ``shape`` is the manifest's (``codecs.decode``). For any number of
    threads: the interpreter's lock is released while decoding and resampling, and no threads are started. Each thread
    keeps its buffers, some three times the largest image it met. ``outside`` is the value of what lies beyond a volume,
    or [C] those of its channels; None: a crop must be within it.

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
        voxels = decode(payload, codec, shape, _ARENA.empty)
        volume = voxels if voxels.ndim == 4 else voxels[None]
        parts = _cut(lambda parts: [volume[:, *part] for part in parts], boxes, volume.shape[1:], outside)
    decoded = perf_counter()
    for (pixels, box), crop, view in zip(parts, crops, views, strict=True):
        if plane:
            planes.resize(pixels, box, view.shape[-1], crop.flip, view, _ARENA.empty)
        else:
            _fill_volume(pixels, box, crop, view)
    return decoded - began, perf_counter() - decoded


def fill_from_bricks(
    bricks: Bricks, crops: Sequence[Crop], views: Sequence[np.ndarray], outside: np.ndarray | None = None
) -> tuple[float, float, float]:
    """Fill crops of a volume in bricks, of which those are read that the crops need.

    Returns the seconds of reading, decoding and resampling. Raises DecodeError where a box is not within the volume,
    BrickError where a brick is damaged.
    """
    began = perf_counter()
    _ARENA.reset()
    cut = partial(bricks.cut, new=_ARENA.empty)
    parts = _cut(cut, [crop.box for crop in crops], bricks.shape[-3:], outside)
    decoded = perf_counter()
    for (voxels, box), crop, view in zip(parts, crops, views, strict=True):
        _fill_volume(voxels, box, crop, view)
    return bricks.seconds, decoded - began - bricks.seconds, perf_counter() - decoded


def _cut(
    take: Callable[[Sequence[PixelSlices]], Sequence[np.ndarray]],
    boxes: Sequence[CropBox],
    sides: tuple[int, ...],
    outside: np.ndarray | None,
) -> list[tuple[np.ndarray, CropBox]]:
    """Cut ``boxes`` (z, y, x, d, h, w), in stored voxels, out of a volume of ``sides``.

    ``take`` gives parts of whole voxels of it. Returns for each box the smallest array of whole voxels around it,
    [C, D, H, W], and the box within that array; where the box lies beyond the volume, the array is padded with
    ``outside``. Raises DecodeError where, with ``outside`` None, a box is not within the volume.
    """
    try:
        parts = [around(box if outside is None else inside(box, sides), sides) for box in boxes]
    except ValueError as error:
        raise DecodeError(str(error)) from error
    pieces: list[tuple[np.ndarray, CropBox]] = []
    for voxels, (_, within), box in zip(take([part for part, _ in parts]), parts, boxes, strict=True):
        if outside is None or box == inside(box, sides):
            pieces.append((voxels, within))
            continue
        before = [max(0, math.ceil(-start)) for start in box[:3]]
        after = [max(0, math.ceil(start + e - side)) for start, e, side in zip(box, box[3:], sides, strict=False)]
        padded = np.empty((len(voxels), *np.add(before, voxels.shape[1:]) + after), voxels.dtype)
        padded[...] = outside.reshape(-1, 1, 1, 1)
        padded[:, *(slice(m, m + n) for m, n in zip(before, voxels.shape[1:], strict=True))] = voxels
        starts = [start - max(0, math.floor(start)) + margin for start, margin in zip(box, before, strict=False)]
        pieces.append((padded, (*starts, *box[3:])))
    return pieces


def darkest(low: np.ndarray | float) -> np.ndarray:
    """The stored value that becomes 0, of one range or of those [C] of channels, whose NaN are of channels of zeros."""
    return np.asarray(np.clip(np.floor(np.nan_to_num(low)), -32768, 32767), np.int16)


def _fill_volume(voxels: np.ndarray, box: CropBox, crop: Crop, view: np.ndarray) -> None:
    """Write the part ``box`` of ``voxels`` [C, D, H, W] into ``view`` [C, *size], resized, mirrored and turned as
    ``crop`` says. Equal where nothing is resized; else rounded once, from float32."""
    out = view.swapaxes(-1, -2) if crop.transposed else view
    starts, extents, size = box[:3], box[3:], out.shape[1:]
    if tuple(extents) != size or any(starts):
        values = voxels.astype(np.float32)
        for start, extent, side in zip(starts, extents, size, strict=True):  # each axis comes second, and goes last
            weights = planes.triangles(start, extent, values.shape[1], side)
            resized = np.stack([weights @ channel.reshape(len(channel), -1) for channel in values])
            values = np.moveaxis(resized.reshape(len(values), side, *values.shape[2:]), 1, -1)
        voxels = np.rint(values)
    out[...] = mirrored(voxels, crop.flip)
