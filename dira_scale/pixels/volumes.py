"""Crops of volumes: decoded, cut out and resized on the CPU, by the filter of ``planes``."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from dira_scale.pixels.arena import Allocate
from dira_scale.pixels.boxes import Box, Part, around, inside, mirrored
from dira_scale.pixels.codecs import DecodeError, decode
from dira_scale.pixels.headers import Payload
from dira_scale.pixels.planes import triangles


def decode_crops(
    payload: Payload,
    codec: str,
    boxes: Sequence[Box],
    shape: tuple[int, ...] | None = None,
    new: Allocate = np.empty,
    outside: int | None = None,
) -> list[tuple[np.ndarray, Box]]:
    """The voxels that each crop needs, decoding the volume once; ``shape`` and ``new`` as in ``codecs.decode``.

    ``boxes`` are (z, y, x, d, h, w) in stored voxels. Returns for each the smallest array of whole voxels around it,
    [C, D, H, W], and the box within that array. npy is only sliced. Voxels beyond the volume have the value
    ``outside``.
    Raises DecodeError when the payload is broken, of another shape, or, with ``outside`` None, a box is not within the
    volume.
    """
    voxels = decode(payload, codec, shape, new)
    voxels = voxels if voxels.ndim == 4 else voxels[None]
    return cut(lambda parts: [voxels[:, *part] for part in parts], boxes, voxels.shape[1:], outside)


def cut(
    take: Callable[[Sequence[Part]], Sequence[np.ndarray]],
    boxes: Sequence[Box],
    sides: tuple[int, ...],
    outside: int | None = None,
) -> list[tuple[np.ndarray, Box]]:
    """Cut boxes out of a volume of ``sides``; ``take`` gives parts of whole voxels of it."""
    try:
        parts = [around(box if outside is None else inside(box, sides), sides) for box in boxes]
    except ValueError as error:
        raise DecodeError(str(error)) from error
    pieces = zip(take([part for part, _ in parts]), (within for _, within in parts), boxes, strict=True)
    if outside is None:
        return [(voxels, within) for voxels, within, _ in pieces]
    return [padded(voxels, within, box, sides, outside) for voxels, within, box in pieces]


def padded(voxels: np.ndarray, within: Box, box: Box, sides: Sequence[int], outside: int) -> tuple[np.ndarray, Box]:
    """``voxels`` [C, D, H, W] around the part ``within`` of ``box`` that a volume of these ``sides`` covers, with
    ``outside`` where ``box`` lies beyond the volume; and the whole box within that array."""
    if box == inside(box, sides):
        return voxels, within
    before = [max(0, math.ceil(-start)) for start in box[:3]]
    after = [max(0, math.ceil(start + e - side)) for start, e, side in zip(box, box[3:], sides, strict=False)]
    margins = ((0, 0), *zip(before, after, strict=True))
    starts = [start - max(0, math.floor(start)) + margin for start, margin in zip(box, before, strict=False)]
    return np.pad(voxels, margins, constant_values=outside), (*starts, *box[3:])


def resize(voxels: np.ndarray, box: Box, flip: Sequence[bool], out: np.ndarray) -> None:
    """The part ``box`` of ``voxels`` [C, D, H, W], resized to the size of ``out`` [C, *size] and mirrored along those
    axes where ``flip`` is true. Equal where nothing is resized; else rounded once, from float32."""
    starts, extents, size = box[:3], box[3:], out.shape[1:]
    if tuple(extents) != size or any(starts):
        values = voxels.astype(np.float32)
        for start, extent, side in zip(starts, extents, size, strict=True):  # each axis comes second, and goes last
            weights = triangles(start, extent, values.shape[1], side)
            resized = np.stack([weights @ channel.reshape(len(channel), -1) for channel in values])
            values = np.moveaxis(resized.reshape(len(values), side, *values.shape[2:]), 1, -1)
        voxels = np.rint(values)
    out[...] = mirrored(voxels, flip)
