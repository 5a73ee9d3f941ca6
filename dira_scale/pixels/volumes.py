"""Crops of volumes: decoded, cut out and resized on the CPU, by the filter of ``planes``."""

from collections.abc import Sequence

import numpy as np

from dira_scale.pixels.arena import Allocate
from dira_scale.pixels.boxes import Box, around, mirrored
from dira_scale.pixels.codecs import DecodeError, decode
from dira_scale.pixels.headers import Payload
from dira_scale.pixels.planes import triangles


def decode_crops(
    payload: Payload, codec: str, boxes: Sequence[Box], shape: tuple[int, ...] | None = None, new: Allocate = np.empty
) -> list[tuple[np.ndarray, Box]]:
    """The voxels that each crop needs, decoding the volume once; ``shape`` and ``new`` as in ``codecs.decode``.

    ``boxes`` are (z, y, x, d, h, w) in stored voxels. Returns for each the smallest array of whole voxels around it,
    [C, D, H, W], and the box within that array. npy is only sliced.
    Raises DecodeError when the payload is broken, of another shape, or a box is not within the volume.
    """
    voxels = decode(payload, codec, shape, new)
    voxels = voxels if voxels.ndim == 4 else voxels[None]
    try:
        parts = [around(box, voxels.shape[1:]) for box in boxes]
    except ValueError as error:
        raise DecodeError(str(error)) from error
    return [(voxels[:, *part], within) for part, within in parts]


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
