"""Read what a payload's header says about its pixels, before any memory is allocated for them."""

import math
import re
import struct
from collections.abc import Callable

import numpy as np
import simplejpeg

Payload = bytes | memoryview  # an encoded image; imagecodecs' types name only bytes, but it takes both

# Headers that encode() writes. NumPy's own reader uses `ast`, which in CPython 3.11 can raise SystemError if a garbage
# collection switches threads inside it (python/cpython#106905).
NPY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<type>\|u1|<u2|<i2)', 'fortran_order': False, "
    rb"'shape': \((?P<shape>\d+, \d+(?:, \d+){0,2})\), \} *\n",
    re.DOTALL,
)


def npy(payload: Payload) -> tuple[tuple[int, ...], str, int]:
    """Shape, type, and the offset of the pixels."""
    header = NPY.match(payload)
    if header is None:
        raise ValueError("expected a .npy file, version 1.0, of uint8, uint16 or int16 in C order with 2 to 4 axes")
    return tuple(int(edge) for edge in header["shape"].split(b",")), header["type"].decode(), header.end()


def jp2(payload: Payload) -> tuple[tuple[int, ...], type[np.generic]]:
    """Shape and type of a JPEG 2000 codestream, from its SIZ marker (ISO/IEC 15444-1, A.5.1).

    Several tiles are refused: 32,768 of them, in 1.4 kB of a small image, took 1.6 GB.
    """
    if len(payload) < 43 or payload[:4] != b"\xff\x4f\xff\x51":
        raise ValueError("not a JPEG 2000 codestream")
    right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">6I", payload, 8)
    if tile_width < right or tile_height < bottom:
        raise ValueError(f"JPEG 2000 in tiles of {tile_height} x {tile_width} pixels: expected one tile")
    components, bits = struct.unpack_from(">HB", payload, 40)
    return _squeezed(bottom - top, right - left, components), (np.uint8 if bits < 8 else np.uint16)


def png(payload: Payload) -> tuple[tuple[int, ...], int, int, bool]:
    """Shape, bits of a value, colour type, and whether the rows are interlaced (PNG 3, 11.2.1)."""
    if len(payload) < 33 or payload[:16] != b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR":
        raise ValueError("not a PNG file")
    width, height, bits, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", payload, 16)
    return _squeezed(height, width, {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(colour, 0)), bits, colour, bool(interlaced)


def jpg(payload: Payload) -> tuple[int, ...]:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(payload)
    if colours == "CMYK":
        raise ValueError("CMYK JPEG: expected grey or RGB")
    return _squeezed(height, width, 1 if colours == "Gray" else 3)


def b2nd(payload: Payload) -> tuple[int, ...]:
    import blosc2  # images do not need it

    return tuple(blosc2.ndarray_from_cframe(frame(payload)).shape)


def frame(payload: Payload) -> Payload:
    """The frame of blosc2 that a b2nd payload begins with; a table of its bricks follows."""
    if len(payload) < 24 or bytes(payload[2:9]) != b"b2frame":
        raise ValueError("expected a frame of blosc2")
    (size,) = struct.unpack_from(">q", payload, 16)
    if not 0 < size <= len(payload):
        raise ValueError(f"a frame of {size} bytes in a payload of {len(payload)}")
    return payload[:size]


def _squeezed(height: int, width: int, channels: int) -> tuple[int, ...]:
    return (height, width) if channels == 1 else (height, width, channels)


SHAPES: dict[str, Callable[[Payload], tuple[int, ...]]] = {
    "png": lambda payload: png(payload)[0],
    "jpg": jpg,
    "jp2": lambda payload: jp2(payload)[0],
    "npy": lambda payload: npy(payload)[0],
    "b2nd": b2nd,
}


def check(payload: Payload, codec: str, shape: tuple[int, ...]) -> None:
    """Raises ValueError or RuntimeError unless the payload claims to have this shape."""
    claimed = SHAPES[codec](payload)
    if claimed != shape:
        said, expected = (f"{' x '.join(map(str, one))} pixel{'s' * (math.prod(one) != 1)}" for one in (claimed, shape))
        raise ValueError(f"its header says {said}, expected {expected}")
