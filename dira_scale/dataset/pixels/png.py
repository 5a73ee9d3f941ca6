"""PNG as ``codecs.encode`` writes it, in two vectorised passes; any other PNG by libpng.

libpng inflates and undoes row filters row by row, with zlib. Here libdeflate inflates the whole image at once, and the
Sub filter (each byte minus the one a pixel to its left, modulo 256) is undone as a running sum: half of libpng's time,
and the same pixels. The checksum of the pixels (Adler-32) is checked, those of the chunks around them are not.
"""

import struct

import imagecodecs
import numpy as np

from dira_scale.dataset.pixels import headers
from dira_scale.dataset.pixels.arena import Allocate

SUB = 1


def decode(payload: headers.Payload, new: Allocate = np.empty) -> np.ndarray:
    """Pixels [H, W] or [H, W, C], uint8 or uint16, in arrays that ``new`` makes.

    Raises ValueError or RuntimeError when the payload is broken.
    """
    shape, bits, colour, interlaced = headers.png(payload)
    chunks, kind, offset = [], b"", 8
    while kind != b"IEND":
        if offset + 12 > len(payload):
            raise ValueError("PNG file cut short")
        length, kind = struct.unpack_from(">I4s", payload, offset)
        chunks.append((kind, payload[offset + 8 : offset + 8 + length]))
        offset += 12 + length
    plain = {kind for kind, _ in chunks} == {b"IHDR", b"IDAT", b"IEND"}
    if not plain or interlaced or bits not in (8, 16) or colour not in (0, 2):
        return imagecodecs.png_decode(payload)  # type: ignore[arg-type]
    height, width, lanes = shape[0], shape[1], bits // 8 * (1 if colour == 0 else 3)  # lanes: bytes of a pixel
    lines = new((height, 1 + width * lanes), np.uint8)  # a row begins with the number of its filter
    data = b"".join(data for kind, data in chunks if kind == b"IDAT")
    inflated = imagecodecs.deflate_decode(data, out=lines.ravel().data)
    if len(inflated) != lines.size:
        raise ValueError(f"PNG of {height} x {width} pixels holds {len(inflated)} bytes, expected {lines.size}")
    if (lines[:, 0] != SUB).any():
        return imagecodecs.png_decode(payload)  # type: ignore[arg-type]
    differences = lines[:, 1:] if lanes == 1 else lines[:, 1:].reshape(height, width, lanes)  # a view
    pixels = imagecodecs.delta_decode(differences, axis=1, out=new(differences.shape, np.uint8))
    if bits == 8:
        return pixels
    native = new((height, width, lanes // 2), np.uint16)
    native[...] = pixels.view(">u2")
    return native.reshape(shape)
