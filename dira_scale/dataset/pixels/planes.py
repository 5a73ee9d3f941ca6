"""Crops of images: decoded, cut out and resized on the CPU.

The filter is a triangle, as wide as the larger of the two grids' spacings: Pillow's antialiased bilinear filter, with
the same centres and weights. Both ways of computing it take rows first, then columns as the rows of the transposed
image, so that a processor's vectors always run along a row. Arrays are laid out by NumPy, whose views keep the
interpreter's lock: each of torch's gives it up six times, and threads then wait for each other to get it back.

==============  =========================================  =====================================================
pixels          computed                                   difference from the filter in float64
==============  =========================================  =====================================================
8 bits          torch's fixed-point filter, 8 bits         at most 1.1 grey levels (two roundings), 0.3 on average
16 bits, or     sparse matrices in float32                 at most 0.54 of the stored levels (one rounding), 0.25
fractional box                                             on average
==============  =========================================  =====================================================

For 790 x 790 pixels to 224 x 224 they take 0.17 and 0.45 ms; Pillow takes 1.2 (8 bits) and 1.0 (float32).
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from etils.epy import lazy_imports

from dira_scale.dataset.pixels.arena import Allocate
from dira_scale.dataset.pixels.boxes import CropBox, around
from dira_scale.dataset.pixels.codecs import DecodeError, decode
from dira_scale.dataset.pixels.headers import Payload

with lazy_imports():
    from scipy import sparse  # not of whole boxes of 8 bits

_MOST = 0.5  # of a row


def decode_crops(
    payload: Payload,
    codec: str,
    boxes: Sequence[CropBox],
    size: int | Sequence[int],
    shape: tuple[int, ...] | None = None,
    new: Allocate = np.empty,
) -> list[tuple[np.ndarray, CropBox]]:
    """The pixels that each crop needs, decoding the image once; ``shape`` and ``new`` as in ``codecs.decode``.

    ``boxes`` are (y, x, h, w) in stored pixels; the caller resizes each to ``size``, or each to its own. Returns for
    each box the smallest array of whole pixels around it, and the box within that array, in fractional pixels. A JPEG
    is decoded at 1/2, 1/4 or 1/8 scale if every crop still has twice the pixels of its target (radiographs of 1024
    pixels to 64: a fifth less time; error 0.2 grey levels on average, 99 % within 1.3); npy is only sliced.
    Raises DecodeError when the payload is broken, of another shape, or a box is not within the image.
    """
    sizes = np.broadcast_to(size, len(boxes)).tolist()
    least = max(2 * side / min(h, w) for (_, _, h, w), side in zip(boxes, sizes, strict=True))
    scale = next(s for s in (0.125, 0.25, 0.5, 1.0) if s >= least or s == 1.0) if codec == "jpg" else 1.0
    pixels = decode(payload, codec, shape, new, scale)
    try:
        scaled = [around(tuple(scale * edge for edge in box), pixels.shape[:2]) for box in boxes]
    except ValueError as error:
        raise DecodeError(str(error)) from error
    return [(pixels[part], within) for part, within in scaled]


def resize(
    pixels: np.ndarray,
    box: CropBox,
    size: int,
    flip: Sequence[bool] = (),
    out: np.ndarray | None = None,
    new: Allocate = np.empty,
) -> np.ndarray:
    """The part ``box`` (y, x, h, w) of ``pixels`` [H, W] or [H, W, C], resized: [C, size, size] of the same type.

    Pixels outside the box do not contribute; one that the box's edge divides does. The result is mirrored along the
    axes where ``flip`` is true. It goes to ``out`` if given, which may be of a wider type; intermediate arrays come
    from ``new``.
    """
    y, x, h, w = box
    top, left, bottom, right = math.floor(y), math.floor(x), math.ceil(y + h), math.ceil(x + w)
    rows, columns = pixels[top:bottom], slice(left, right)
    channels = [rows] if rows.ndim == 2 else [rows[..., channel] for channel in range(rows.shape[2])]
    if out is None:
        out = np.empty((len(channels), size, size), pixels.dtype)
    fixed_point = pixels.dtype == np.uint8 and (bottom - top, right - left) == (h, w)
    upside_down, mirrored = flip or (False, False)
    for channel, slot in zip(channels, out, strict=True):
        if fixed_point:
            lines = _resize_rows(channel, columns, size, new)
            upright = _transposed(lines, upside_down, new(lines.shape[::-1], lines.dtype))
            turned = _resize_rows(upright, slice(None), size, new)
        else:
            values = new((bottom - top, right - left), np.float32)
            values[...] = channel[:, columns]
            lines = triangles(y - top, h, bottom - top, size) @ values
            upright = _transposed(lines, upside_down, new(lines.shape[::-1], lines.dtype))
            turned = np.rint(triangles(x - left, w, right - left, size) @ upright).astype(pixels.dtype)
        fits = slot.dtype == turned.dtype and slot.flags.c_contiguous
        resized = _transposed(turned, mirrored, slot if fits else None)
        if not fits:
            slot[...] = resized
    return out


def _resize_rows(pixels: np.ndarray, columns: slice, size: int, new: Allocate) -> np.ndarray:
    """[h, W] -> [size, w], the ``columns`` of it, uint8.

    torch's fast path is for images of four interleaved channels, so four columns are called a pixel. It wants them
    without gaps: where the columns are most of the row, resizing the whole row takes less time than copying them.
    """
    wanted = pixels[:, columns]
    (h, width), w = pixels.shape, wanted.shape[1]
    if width % 4 == 0 and w >= _MOST * width and pixels.flags.c_contiguous and pixels.flags.writeable:
        source, kept = pixels, columns
    else:
        width = 4 * -(-w // 4)
        source, kept = new((h, width), np.uint8), slice(w)
        source[:, :w] = wanted
    image = torch.from_numpy(source.reshape(1, h, width // 4, 4).transpose(0, 3, 1, 2))
    resized = F.interpolate(image, (size, width // 4), mode="bilinear", antialias=True)
    return resized.numpy().transpose(0, 2, 3, 1).reshape(size, width)[:, kept]


def _transposed(pixels: np.ndarray, flip: bool, out: np.ndarray | None) -> np.ndarray:
    """[h, w] -> [w, h], mirrored along the last axis if ``flip``; OpenCV's copy is in vectors, NumPy's takes ten times
    as long."""
    return cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE, out) if flip else cv2.transpose(pixels, out)


def triangles(start: float, length: float, source: int, size: int) -> "sparse.csr_array":
    """Weights [size, source] of the pixels 0 to ``source`` - 1 for ``size`` steps from ``start`` over ``length``."""
    step = length / size
    reach = max(step, 1.0)
    centre = start + (np.arange(size)[:, None] + 0.5) * step
    width = min(math.ceil(2 * reach) + 1, source)
    pixel = np.clip(np.floor(centre - reach), 0, source - width).astype(np.int32) + np.arange(width, dtype=np.int32)
    weight = np.clip(1 - np.abs(pixel + 0.5 - centre) / reach, 0, None)
    weight /= weight.sum(1, keepdims=True)
    ends = np.arange(0, size * width + 1, width, dtype=np.int32)
    return sparse.csr_array((weight.astype(np.float32).ravel(), pixel.ravel(), ends), shape=(size, source))
