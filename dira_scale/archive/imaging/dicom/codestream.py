"""Compressed DICOM frames decoded by imagecodecs, as a plugin for pydicom.

One library decodes RLE and the whole JPEG family: libjpeg-turbo (8, 12 and 16 bits, lossy and lossless), CharLS and
OpenJPEG (including High Throughput). It was chosen for its handling of damaged frames
(``docs/how-to/install.md``).
pydicom does what all codecs share: finding a frame's fragments, signs, unused bits.
"""

import struct
from collections.abc import Callable

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import DecodeRunner

PLUGIN = "imagecodecs"
Codec = Callable[[bytes], np.ndarray]
Size = tuple[int, int, int]  # rows, columns, samples


def decode(source: bytes, runner: DecodeRunner) -> bytes:
    """One frame's pixels in native byte order, colour interleaved; colour-transformed only for JPEG 2000.

    Raises ValueError if the stream's size differs from the header's (checked before decoding: a stream of a few bytes
    can claim gigabytes), if it has more bits than the header allows, or if it is truncated.
    """
    size, codec = _CODECS[runner.transfer_syntax]
    if size(source) != (runner.rows, runner.columns, runner.samples_per_pixel):
        raise ValueError("the frame's size differs from the header's")
    pixels = codec(source)
    if 8 * pixels.itemsize > runner.bits_allocated:
        raise ValueError("the frame has more bits than the header says")
    runner.set_option("bits_allocated", 8 * pixels.itemsize)
    runner.set_option("planar_configuration", 0)
    if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
        runner.set_option("photometric_interpretation", "RGB")
    return pixels.tobytes()


def decode_rle(source: bytes, runner: DecodeRunner) -> bytes:
    """One RLE frame (PS3.5 G): one segment per byte of each sample, most significant byte first.

    Raises ValueError if the number of segments is wrong or a segment is too short.
    """
    samples, width = runner.samples_per_pixel, runner.bits_allocated // 8
    count, *starts = struct.unpack_from("<16I", source)
    if count != samples * width:
        raise ValueError(f"the frame has {count} segments, expected {samples * width}")
    segments = []
    for start, end in zip(starts[:count], [*starts[1:count], len(source)], strict=True):
        values = np.frombuffer(imagecodecs.packbits_decode(source[start:end]), np.uint8)
        segments.append(values[: runner.rows * runner.columns])
    if min(map(len, segments)) < runner.rows * runner.columns:
        raise ValueError("a segment has too few values")
    runner.set_option("planar_configuration", 1)
    return np.array(segments).reshape(samples, width, -1)[:, ::-1].swapaxes(1, 2).tobytes()


def is_available(syntax: str) -> bool:
    """Part of pydicom's plugin protocol."""
    return syntax in PLUGINS


def _jpeg(source: bytes) -> np.ndarray:
    _check_end(source)  # libjpeg would fill missing data with grey
    if _jpeg_size(source)[2] == 1:
        return imagecodecs.jpeg8_decode(source)
    return imagecodecs.jpeg8_decode(source, colorspace="YCBCR", outcolorspace="YCBCR")  # no colour transform


def _jpeg_ls(source: bytes) -> np.ndarray:
    _check_end(source)  # CharLS would search for the end for minutes
    return imagecodecs.jpegls_decode(source)


def _check_end(source: bytes) -> None:
    if b"\xff\xd9" not in source[-1024:]:
        raise ValueError("the frame has no end-of-image marker")


def _jpeg_size(source: bytes) -> Size:
    """From the frame header (ITU-T T.81 B.2.2; T.87 C.2.2 for JPEG-LS), skipping any segments before it."""
    position = 2
    while source[position] == 0xFF:
        kind, length = source[position + 1], int.from_bytes(source[position + 2 : position + 4], "big")
        if kind == 0xFF:  # fill
            position += 1
        elif (0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC)) or kind == 0xF7:
            return struct.unpack_from(">HHB", source, position + 5)
        else:
            position += 2 + length
    raise ValueError("no frame header")


def _jpeg2000_size(source: bytes) -> Size:
    """From the SIZ segment (ITU-T T.800 A.5.1), which comes first; some files wrap the stream in boxes."""
    siz = source.find(b"\xff\x4f\xff\x51") + 8
    right, lower, left, upper = struct.unpack_from(">4I", source, siz)
    (samples,) = struct.unpack_from(">H", source, siz + 32)
    return lower - upper, right - left, samples


_CODECS: dict[uid.UID, tuple[Callable[[bytes], Size], Codec]] = {
    **dict.fromkeys(uid.JPEGTransferSyntaxes, (_jpeg_size, _jpeg)),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, (_jpeg_size, _jpeg_ls)),
    **dict.fromkeys(  # pydicom's list also has those of several components, for which it has no decoder
        (uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K),
        (_jpeg2000_size, imagecodecs.jpeg2k_decode),
    ),
}
PLUGINS = dict.fromkeys([*_CODECS, uid.RLELossless], PLUGIN)  # by transfer syntax
for _syntax in PLUGINS:
    _function = decode_rle if _syntax == uid.RLELossless else decode
    get_decoder(_syntax).add_plugin(PLUGIN, (__name__, _function.__name__))
