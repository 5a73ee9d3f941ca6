"""Our PNG are read in two passes, others by libpng: the same pixels by libpng, Pillow and us."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from archive.mutants.liars import png_chunk
from PIL import Image

from dira_scale.dataset.pixels import codecs, png


def grey(rows: bytes, width: int, height: int) -> bytes:
    """A file of 8 bits whose ``rows`` are as given, filters' numbers included."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 2), (1, 70), (70, 2), (33, 47), (33, 47, 3)])
def test_the_same_pixels_as_libpng(dtype, shape, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    payload = codecs.encode(pixels, "png")
    np.testing.assert_array_equal(imagecodecs.png_decode(payload), pixels)
    monkeypatch.setattr(imagecodecs, "png_decode", None)  # not by libpng
    np.testing.assert_array_equal(png.decode(payload), pixels)


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16", "1", "P", "LA", "RGBA"])
def test_what_others_wrote_is_read_by_libpng(mode):
    """Other filters, palettes, transparency, a bit a pixel."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 31), np.uint8)
    image = Image.fromarray(pixels.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    np.testing.assert_array_equal(png.decode(stream.getvalue()), imagecodecs.png_decode(stream.getvalue()))


def test_one_row_of_another_filter():
    """Rows of no filter, Sub, Up, and Sub again."""
    pixels = np.array([[1, 2, 3], [9, 8, 7], [200, 100, 250], [5, 0, 255]], np.uint8)
    below = pixels.copy()
    below[1:] -= pixels[:-1]
    left = pixels.copy()
    left[:, 1:] -= pixels[:, :-1]
    lines = (pixels[0], left[1], below[2], left[3])
    rows = b"".join(bytes([number, *line]) for number, line in zip((0, 1, 2, 1), lines, strict=True))
    np.testing.assert_array_equal(png.decode(grey(rows, 3, 4)), pixels)


@pytest.mark.parametrize("rows", [bytes([1, 2, 3]) * 3, bytes([1, 2, 3]) * 5, b""])
def test_rows_that_are_missing_or_too_many_are_errors(rows):
    with pytest.raises(codecs.DecodeError):
        codecs.decode(grey(rows, 2, 4), "png")


@pytest.mark.parametrize("where", [-20, 60])
def test_damaged_pixels_are_an_error(radiograph, where):
    """Damage to the compressed data and to its checksum."""
    payload = bytearray(codecs.encode(radiograph(40, 50), "png"))
    payload[where] ^= 0xFF
    with pytest.raises(codecs.DecodeError):
        codecs.decode(bytes(payload), "png")
