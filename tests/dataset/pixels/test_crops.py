"""Crops written straight into their views: against the filter in float64, in many threads, starting none."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dira_scale.dataset.pixels import codecs
from dira_scale.dataset.pixels.boxes import Crop, CropBox
from dira_scale.dataset.pixels.crops import fill
from dira_scale.dataset.pixels.planes import resize


def triangles(start: float, length: float, source: int, size: int) -> np.ndarray:
    """[size, source]: the antialiased bilinear filter of Pillow, in float64."""
    step = length / size
    centre = start + (np.arange(size)[:, None] + 0.5) * step
    weight = np.clip(1 - np.abs(np.arange(source) + 0.5 - centre) / max(step, 1), 0, None)
    return weight / weight.sum(1, keepdims=True)


def exact(pixels: np.ndarray, box: CropBox, size: int) -> np.ndarray:
    (y, x, h, w), (height, width) = box, pixels.shape
    return triangles(y, h, height, size) @ pixels.astype(np.float64) @ triangles(x, w, width, size).T


def images(height: int, width: int) -> dict[str, np.ndarray]:
    """8 bits: noise, black and white noise, steps, a smooth ramp."""
    generator = np.random.default_rng(0)
    steps = np.zeros((height, width), np.uint8)
    steps[height // 3 :] = 255
    steps[:, width // 2 + 1 :] ^= 255
    return {
        "noise": generator.integers(0, 256, (height, width), np.uint8),
        "salt": generator.integers(0, 2, (height, width), np.uint8) * np.uint8(255),
        "steps": steps,
        "ramp": np.linspace(0, 255, height * width).reshape(height, width).round().astype(np.uint8),
    }


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("source", [(300, 211), (64, 64), (65, 63), (37, 90), (3, 2), (1, 1), (500, 5)])
@pytest.mark.parametrize("size", [64, 30, 9])
def test_within_the_stated_bounds(bits, source, size):
    for name, image in images(*source).items():
        pixels = image if bits == 8 else image.astype(np.uint16) * 257
        box = (0.0, 0.0, *map(float, source))
        error = np.abs(resize(pixels, box, size)[0] - exact(pixels, box, size))
        assert error.max() < (1.05 if bits == 8 else 0.54), name
        assert error.mean() < 0.35, name


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_fractional_boxes(dtype):
    """One rounding. Whole pixels around the box contribute, those further away do not."""
    pixels = images(90, 80)["noise"].astype(dtype) * dtype(np.iinfo(dtype).max // 255)
    around = pixels.copy()
    around[:10], around[61:], around[:, :20], around[:, 70:] = 0, 0, 0, 0
    box = (10.25, 20.5, 50.5, 49.0)
    resized = resize(pixels, box, 16)
    np.testing.assert_array_equal(resized, resize(around, box, 16))
    error = np.abs(resized[0] - exact(pixels[10:61, 20:70], (0.25, 0.5, 50.5, 49.0), 16))
    assert error.max() < 0.54


def test_16_bits_keep_the_largest_value():
    assert (resize(np.full((70, 50), 65535, np.uint16), (3, 4, 60, 40), 24) == 65535).all()
    assert (resize(np.full((70, 50), 255, np.uint8), (3, 4, 60, 40), 24) == 255).all()


@pytest.mark.parametrize("codec", ["png", "jpg", "jp2", "npy"])
@pytest.mark.parametrize(("channels", "bits", "wider"), [(1, 8, False), (3, 8, True), (1, 16, True)])
def test_views_are_filled_as_the_parts_say(radiograph, codec, channels, bits, wider):
    if codec == "jpg" and bits == 16:
        return
    pixels = radiograph(70, 90, bits, channels)
    payload = codecs.encode(pixels, codec)
    boxes, flips = ((0, 0, 70, 90), (10, 21, 33, 47)), itertools.product((False, True), repeat=2)
    crops = [Crop(box, flip) for flip in flips for box in boxes]
    views = np.zeros((len(crops), channels, 24, 24), np.uint16 if wider else np.uint8)
    fill(payload, codec, crops, views, pixels.shape)
    whole = codecs.decode(payload, codec)
    for view, ((y, x, h, w), flip, _) in zip(views, crops, strict=True):
        expected = resize(np.ascontiguousarray(whole[y : y + h, x : x + w]), (0, 0, h, w), 24)
        np.testing.assert_array_equal(view, np.flip(expected, [axis for axis in (1, 2) if flip[axis - 1]]))
    with pytest.raises(codecs.DecodeError, match="its header says"):
        fill(payload, codec, crops, views, (90, 70))


def test_threads_do_not_share_their_buffers(radiograph):
    """Images of all sizes, larger after smaller, in four threads as in one."""
    payloads = [codecs.encode(radiograph(40 + 13 * i, 150 - 9 * i, seed=i), "png") for i in range(12)]

    def view(i: int) -> np.ndarray:
        out = np.empty((1, 1, 24, 24), np.uint8)
        fill(payloads[i % 12], "png", [Crop((i % 7, i % 11, 30, 31), (False, False))], out)
        return out

    alone = [view(i) for i in range(200)]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(alone, pool.map(view, range(200)), strict=True):
            np.testing.assert_array_equal(one, other)
