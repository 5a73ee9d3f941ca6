"""Every codec gives back what it was given, says when it cannot, and hands out crops of what it decoded."""

import io

import numpy as np
import pytest
from PIL import Image

from dira_scale.base.arguments import ArgumentError
from dira_scale.dataset.pixels import codecs
from dira_scale.dataset.pixels.planes import decode_crops

LOSSLESS = [(codec, bits) for codec in ("png", "jp2", "npy") for bits in (8, 16)]


@pytest.mark.parametrize(("codec", "bits"), LOSSLESS)
@pytest.mark.parametrize("shape", [(64, 48), (1, 1), (37, 101), (33, 20, 3)])
def test_lossless_roundtrip(radiograph, codec, bits, shape):
    pixels = radiograph(*shape[:2], bits, channels=shape[2] if len(shape) == 3 else 1).reshape(shape)
    payload = codecs.encode(pixels, codec)
    back = codecs.decode(payload, codec)
    assert back.dtype == pixels.dtype
    np.testing.assert_array_equal(back, pixels)
    assert codecs.encode(pixels[::1], codec) == payload  # deterministic


@pytest.mark.parametrize(("codec", "bits"), [("png", 8), ("png", 16), ("jp2", 8), ("jp2", 16), ("jpg", 8)])
def test_other_readers_open_the_payload(radiograph, codec, bits):
    payload = codecs.encode(radiograph(60, 44, bits), codec)
    with Image.open(io.BytesIO(payload)) as image:
        assert np.abs(np.asarray(image).astype(int) - codecs.decode(payload, codec)).max() <= (codec == "jpg")


def test_npy_is_a_plain_numpy_file_and_its_crops_are_views(radiograph):
    pixels = radiograph(60, 44, 16)
    payload = codecs.encode(pixels, "npy")
    np.testing.assert_array_equal(np.load(io.BytesIO(payload)), pixels)
    (crop, _), (other, _) = decode_crops(payload, "npy", [(3, 4, 10, 12), (0, 0, 60, 44)], 8)
    assert np.shares_memory(crop, other)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_close(radiograph, channels):
    pixels = radiograph(80, 60, channels=channels)
    back = codecs.decode(codecs.encode(pixels, "jpg", quality=98), "jpg")
    assert back.shape == pixels.shape
    assert np.abs(back.astype(int) - pixels).mean() < 1.5


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4), np.float32), np.zeros((4, 4), np.uint8, order="F"), np.zeros(4, np.uint8)]
)
def test_a_npy_file_that_encode_would_not_write_is_refused(pixels):
    file = io.BytesIO()
    np.save(file, pixels)
    with pytest.raises(codecs.DecodeError, match="uint8, uint16 or int16 in C order"):
        codecs.decode(file.getvalue(), "npy")


def test_a_scaled_jpeg_keeps_the_crop_where_it_was():
    """An edge at column 301 of 601 stays there: the box is scaled by exactly 1/4, not by the rounded size."""
    pixels = np.zeros((483, 601), np.uint8)
    pixels[:, 301:] = 200
    ((crop, (y, x, h, w)),) = decode_crops(codecs.encode(pixels, "jpg"), "jpg", [(3, 101, 400, 400)], 50)
    assert (y, x, h, w) == (0.75, 0.25, 100, 100)
    resized = Image.fromarray(crop).resize((100, 100), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))
    profile = np.asarray(resized).astype(float).mean(0) / 200
    assert abs((100 - profile.sum()) * 4 - 200) < 1.0


BROKEN = {"cut short": lambda p: p[: len(p) // 2], "no image": lambda p: b"no image", "empty": lambda p: b""}


@pytest.mark.parametrize(
    ("codec", "damage"), [(c, d) for c in codecs.CODECS for d in BROKEN if (c, d) != ("jp2", "cut short")]
)
def test_a_broken_payload_is_an_error(radiograph, codec, damage):
    image = radiograph(64, 64)
    payload = BROKEN[damage](codecs.encode(image[None] if codec == "b2nd" else image, codec))
    with pytest.raises(codecs.DecodeError):
        codecs.decode(payload, codec)
    with pytest.raises(codecs.DecodeError):
        decode_crops(payload, codec, [(0, 0, 64, 64)], 8)


def test_a_crop_outside_the_image_is_an_error(radiograph):
    with pytest.raises(codecs.DecodeError, match="32 x 40"):
        decode_crops(codecs.encode(radiograph(32, 40), "png"), "png", [(10, 0, 23, 40)], 8)


@pytest.mark.parametrize(
    ("pixels", "codec", "words"),
    [
        (np.zeros((4, 4), np.uint16), "jpg", "8 bits"),
        (np.zeros((4, 4), np.float32), "png", "float32"),
        (np.zeros((0, 4), np.uint8), "png", "shape"),
        (np.zeros((4, 4), np.uint8), "pgn", "did you mean 'png'"),
    ],
)
def test_what_cannot_be_stored_is_refused(pixels, codec, words):
    with pytest.raises(ValueError, match=words):
        codecs.encode(pixels, codec)


def test_volumes_go_into_their_codecs_only():
    voxels = np.zeros((4, 4, 4), np.int16)
    np.testing.assert_array_equal(codecs.decode(codecs.encode(voxels, "npy"), "npy"), voxels)
    with pytest.raises(ArgumentError, match="codec: expected b2nd or npy, for volumes, got 'png'"):
        codecs.encode(voxels, "png")
    with pytest.raises(ValueError, match="cannot store uint16 of shape"):
        codecs.encode(voxels.astype(np.uint16), "b2nd")
