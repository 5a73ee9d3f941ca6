"""Pixels to payload bytes and back: the codecs of shards. Encoding is deterministic for given library versions.

======  =======================  ==========  =====================================================================
codec   form                     bits        1024 x 1024 grey radiograph, one core
======  =======================  ==========  =====================================================================
png     PNG, row filter Sub      8, 16       lossless; 3 ms (8 bits), 6 ms (16 bits)
jpg     JPEG, baseline           8           lossy; 2.5 ms, of which entropy decoding is 2
jp2     HTJ2K codestream         8, 16       lossless JPEG 2000 Part 15; 4 ms, 6 ms; OpenJPEG and Pillow read it
npy     NumPy array file         8, 16       lossless; no decoding, a crop is a slice
b2nd    blosc2 bricks, LZ4HC     8, 16       volumes; lossless; a crop reads its bricks only
======  =======================  ==========  =====================================================================
"""

import io
import math

import imagecodecs
import numpy as np
import simplejpeg

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import nearest
from dira_scale.dataset.pixels import bricks, headers, png
from dira_scale.dataset.pixels.arena import Allocate
from dira_scale.dataset.pixels.headers import Payload


class DecodeError(ValueError):
    """A payload is not valid for its codec; the message is the codec library's."""


def encode(pixels: np.ndarray, codec: str, quality: int = 95) -> bytes:
    """Payload bytes of ``pixels``, [H, W] or [H, W, C] of uint8 or uint16; of voxels, [Z, Y, X] or [C, Z, Y, X] of
    int16 (masks: uint8), with b2nd or npy. ``quality`` applies to JPEG only.

    Raises ArgumentError for a codec that cannot store them, and ValueError for pixels that none can.
    """
    if codec not in CODECS:
        raise ArgumentError("codec", codec, f"{', '.join(sorted(CODECS))}{nearest(codec, CODECS)}")
    types, axes = (VOXELS, (3, 4)) if codec == "b2nd" or pixels.dtype == np.int16 else (PIXELS, (2, 3))
    if pixels.dtype not in types or pixels.ndim not in axes or pixels.size == 0:
        raise ValueError(f"cannot store {pixels.dtype} of shape {pixels.shape} as {codec}: use uint8 or uint16 for "
                        "images, int16 (masks: uint8) for volumes")  # fmt: skip
    if pixels.dtype == np.int16 and codec not in VOLUME_CODECS:
        raise ArgumentError("codec", codec, f"{' or '.join(VOLUME_CODECS)}, for volumes")
    if codec == "jpg" and pixels.dtype != np.uint8:
        raise ArgumentError("codec", codec, "png, jp2 or npy: it stores 8 bits, and these pixels have 16")
    pixels = np.ascontiguousarray(pixels)
    match codec:
        case "png":  # run lengths over the Sub filter: slower deflate levels save only 1 % on noisy radiographs
            return bytes(imagecodecs.png_encode(pixels, 1, strategy=3, filter=16))
        case "jpg" if pixels.ndim == 2:
            return simplejpeg.encode_jpeg(pixels[..., None], quality, "GRAY", "Gray")
        case "jpg":
            return simplejpeg.encode_jpeg(pixels, quality, "RGB", "444")
        case "jp2":
            return bytes(imagecodecs.htj2k_encode(pixels))
        case "b2nd":
            return bricks.encode(pixels)
        case _:
            file = io.BytesIO()
            np.save(file, pixels, allow_pickle=False)
            return file.getvalue()


def decode(
    payload: Payload, codec: str, shape: tuple[int, ...] | None = None, new: Allocate = np.empty, scale: float = 1.0
) -> np.ndarray:
    """Pixels of a payload: [H, W], or [H, W, C] where it has several channels; uint8 or uint16; voxels: [Z, Y, X] or
    [C, Z, Y, X], int16 or uint8. May be read-only.

    ``shape``, such as the manifest's, is compared with the payload's header before memory is taken: a few kilobytes can
    claim to be gigabytes. ``new`` makes the arrays, where the codec's library lets it. ``scale``, of a JPEG only: 1,
    1/2, 1/4 or 1/8, at which it is decoded.
    Raises DecodeError when the payload is broken or of another shape.
    """
    try:
        if shape is not None:
            headers.check(payload, codec, shape)
        match codec:
            case "png":
                pixels = png.decode(payload, new)
            case "jpg":
                rows, columns, *colours = shape or headers.jpg(payload)
                height, width = math.ceil(rows * scale), math.ceil(columns * scale)
                buffer = new((height, width, 3 if colours else 1), np.uint8)
                space = "RGB" if colours else "GRAY"
                pixels = simplejpeg.decode_jpeg(payload, space, min_height=height, min_width=width, buffer=buffer)
                pixels = pixels if colours else pixels[..., 0]
            case "jp2":
                pixels = imagecodecs.htj2k_decode(payload, out=new(*headers.jp2(payload)))  # type: ignore[arg-type]
            case "npy":  # a view of the payload: nothing is copied
                sides, dtype, offset = headers.npy(payload)
                pixels = np.frombuffer(payload, dtype, math.prod(sides), offset).reshape(sides)
            case "b2nd":
                import blosc2  # images do not need it

                pixels = blosc2.ndarray_from_cframe(headers.frame(payload))[...]
            case _:
                raise KeyError(codec)
    except (ValueError, RuntimeError) as error:  # what the libraries raise
        raise DecodeError(str(error)) from error
    if shape is not None and scale == 1 and pixels.shape != shape:  # a PNG's palette may add transparency
        raise DecodeError(f"pixels of shape {pixels.shape}, expected {shape}")
    return pixels


PIXELS, VOXELS = (np.uint8, np.uint16), (np.int16, np.uint8)
VOLUME_CODECS = ("b2nd", "npy")
DECODED_ON_GPU = ("jpg", "jp2")  # by nvJPEG and nvJPEG2000
GPU = "gpu"  # in recipes: the codec for images that GPUs decode
CODECS = ("png", "jpg", "jp2", "npy", "b2nd")


def gpu_codec(bits: int) -> str:
    """Return the codec that GPUs decode fastest among those that store ``bits``: a GPU has circuits for JPEG."""
    return "jpg" if bits == 8 else "jp2"
