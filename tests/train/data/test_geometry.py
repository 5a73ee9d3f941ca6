"""Crops, flips and turns: against a loop over samples, within their image, uniform where they must be."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dira_scale.dataset.pixels.boxes import Crop
from dira_scale.train.data.geometry.orientation import INDICATOR, indicator, reorient
from dira_scale.train.data.geometry.plane import PlaneCrop
from dira_scale.train.data.geometry.volume import VolumeCrop

SIDES = st.integers(1, 400)


def torchvisions(u: np.ndarray, height: int, width: int, rule: PlaneCrop) -> list[int]:
    """RandomResizedCrop's ``get_params``, with these numbers in place of its own."""
    for i in range(10):
        area = height * width * (rule.scale[0] + (rule.scale[1] - rule.scale[0]) * u[i])
        low, high = math.log(rule.ratio[0]), math.log(rule.ratio[1])
        ratio = math.exp(low + (high - low) * u[10 + i])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return [int(u[20] * (height - h + 1)), int(u[21] * (width - w + 1)), h, w]
    w, h = width, height
    if width / height < rule.ratio[0]:
        h = round(width / rule.ratio[0])
    elif width / height > rule.ratio[1]:
        w = round(height * rule.ratio[1])
    return [(height - h) // 2, (width - w) // 2, h, w]


@given(height=SIDES, width=SIDES, seed=st.integers(0, 2**32))
def test_a_plane_crop_is_torchvisions(height: int, width: int, seed: int) -> None:
    rule = PlaneCrop((0.2, 1.0), (3 / 4, 4 / 3), 0.5)
    u = np.random.default_rng(seed).random((3, rule.numbers))
    drawn = rule.draw(u, np.full((3, 2), (height, width)))
    assert drawn.box.tolist() == [torchvisions(row, height, width, rule) for row in u]
    assert drawn.flip.tolist() == [[False, row[22] < 0.5] for row in u]
    assert drawn.box.dtype == np.int32


@given(sides=st.tuples(SIDES, SIDES, SIDES), data=st.data())
def test_a_volume_crop_is_a_box_of_a_given_size_inside(sides: tuple[int, ...], data: st.DataObject) -> None:
    """By the loop: which size, where on each axis, mirrored along which."""
    some = st.tuples(*(st.integers(1, side) for side in sides))
    flip = (0.2, 0.5, 0.8)
    rule = VolumeCrop(tuple(data.draw(st.lists(some, min_size=1, max_size=3))), flip)
    u = np.random.default_rng(data.draw(st.integers(0, 2**32))).random((4, rule.numbers))
    drawn = rule.draw(u, np.full((4, 3), sides))
    assert all(least <= side for least, side in zip(rule.least, sides, strict=True))
    for i, row in enumerate(u):
        size = rule.sizes[int(row[0] * len(rule.sizes))]
        start = [int(x * (side - extent + 1)) for x, side, extent in zip(row[1:4], sides, size, strict=True)]
        assert drawn.crop(i) == Crop((*start, *size), tuple(x < p for x, p in zip(row[4:7], flip, strict=True)))
        assert all(a >= 0 and a + extent <= side for a, extent, side in zip(start, size, sides, strict=True))


ALL = [(vertical, horizontal, quarters) for vertical in (0, 1) for horizontal in (0, 1) for quarters in range(4)]
ORIENTATIONS = torch.tensor(ALL, dtype=torch.uint8)


def images(channels=1, size=7):
    return torch.rand(16, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [6, 7])
def test_every_orientation_is_flips_and_then_turns(channels, size):
    x = images(channels, size)
    result = reorient(x, ORIENTATIONS)
    assert result.shape == x.shape and result.dtype == x.dtype
    for i, (vertical, horizontal, quarters) in enumerate(ALL):
        expected = x[i].numpy()
        expected = np.flip(expected, 1) if vertical else expected
        expected = np.flip(expected, 2) if horizontal else expected
        np.testing.assert_array_equal(result[i], np.rot90(expected, quarters, axes=(1, 2)))


def test_the_indicator_has_both_mirrorings_and_one_of_four_turns():
    result = indicator(ORIENTATIONS)
    assert result.shape == (16, INDICATOR[2]) and result.dtype == torch.float32
    for row, (vertical, horizontal, quarters) in zip(result.tolist(), ALL, strict=True):
        assert row == [vertical, horizontal, *(float(quarters == turn) for turn in range(4))]
    assert len({tuple(row) for row in result.tolist()}) == 16


def test_volumes_are_mirrored_along_three_axes_and_turned_in_the_plane():
    every = torch.cartesian_prod(*[torch.arange(n) for n in (2, 2, 2, 4)]).to(torch.uint8)
    x = torch.rand(32, 2, 5, 6, 6, generator=torch.Generator().manual_seed(0))
    result = reorient(x, every)
    for i, (*mirrored, quarters) in enumerate(every.tolist()):
        expected = np.flip(x[i].numpy(), [axis for axis in (1, 2, 3) if mirrored[axis - 1]])
        np.testing.assert_array_equal(result[i], np.rot90(expected, quarters, axes=(2, 3)))
    published = indicator(every)
    assert published.shape == (32, INDICATOR[3])
    for row, (z, y, x_axis, quarters) in zip(published.tolist(), every.tolist(), strict=True):
        # PCRL's volumes have their axes the other way round, so that its turns, from x to y, are these backwards.
        theirs = np.rot90(array := x[0, 0].numpy().T, -quarters, axes=(0, 1))
        np.testing.assert_array_equal(theirs.T, np.rot90(array.T, quarters, axes=(1, 2)))
        assert row == [x_axis, y, z, *(float(-quarters % 4 == turn) for turn in range(4))]
