"""Crops and flips: against a loop over samples, within their image, uniform where they must be."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dira_scale.data import random
from dira_scale.data.geometry.crop import CropRule, Geometry
from dira_scale.data.geometry.plane import PlaneCrop
from dira_scale.data.geometry.volume import VolumeCrop
from dira_scale.pixels.boxes import Crop

SIDES = st.integers(1, 400)


def numbers(count: int, each: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, each))


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
    rule = VolumeCrop(tuple(data.draw(st.lists(some, min_size=1, max_size=3))), 0.5)
    u = np.random.default_rng(data.draw(st.integers(0, 2**32))).random((4, rule.numbers))
    drawn = rule.draw(u, np.full((4, 3), sides))
    assert all(least <= side for least, side in zip(rule.least, sides, strict=True))
    for i, row in enumerate(u):
        size = rule.sizes[int(row[0] * len(rule.sizes))]
        start = [int(x * (side - extent + 1)) for x, side, extent in zip(row[1:4], sides, size, strict=True)]
        assert drawn.crop(i) == Crop((*start, *size), tuple(x < 0.5 for x in row[4:7]))
        assert all(a >= 0 and a + extent <= side for a, extent, side in zip(start, size, sides, strict=True))


def test_volume_crops_are_uniform_over_all_sizes_places_and_flips() -> None:
    """Every one of them in a small volume, equally often."""
    rule, sides, count = VolumeCrop(((2, 2, 3), (1, 3, 2)), 0.5), (3, 4, 4), 60000
    drawn = rule.draw(numbers(count, rule.numbers), np.full((count, 3), sides))
    for size in rule.sizes:
        these = (drawn.box[:, 3:] == size).all(1)
        assert abs(these.mean() - 0.5) < 4 * math.sqrt(0.25 / count)
        places = list(itertools.product(*(range(side - extent + 1) for side, extent in zip(sides, size, strict=True))))
        codes = np.array([places.index(tuple(start)) for start in drawn.box[these, :3].tolist()])
        flips = drawn.flip[these] @ np.array([4, 2, 1])
        counts = np.bincount(codes * 8 + flips, minlength=8 * len(places))
        assert len(counts) == 8 * len(places) and stats.chisquare(counts).pvalue > 1e-3


def test_each_axis_of_a_volume_is_mirrored_with_its_own_probability() -> None:
    rule, count = VolumeCrop(((8, 8, 8),), (0.0, 0.15, 0.6)), 20000
    drawn = rule.draw(numbers(count, rule.numbers), np.full((count, 3), 20))
    np.testing.assert_allclose(drawn.flip.mean(0), [0, 0.15, 0.6], atol=4 * math.sqrt(0.25 / count))
    assert not drawn.flip[:, 0].any()


@pytest.mark.parametrize(
    ("rule", "dimensions"),
    [(PlaneCrop((0.2, 1.0), (0.75, 1.33), 0.5), 2), (VolumeCrop(((5, 6, 7), (3, 3, 3)), 0.5), 3)],
)
def test_a_crop_does_not_depend_on_which_others_are_drawn_with_it(rule: CropRule, dimensions: int) -> None:
    """As parts of a batch on several ranks, in any order; by the counters of the samples' numbers."""
    index = np.arange(24) * 7919
    sides = 10 + np.arange(24 * dimensions).reshape(24, dimensions)

    def draw(part: np.ndarray) -> Geometry:
        u = random.uniform(3, 1, index[part], 0 * part, 0, rule.numbers, 0)
        return rule.draw(u, sides[part])

    whole, everyone = draw(np.arange(24)), np.arange(24)
    for parts in (np.split(everyone, 2), np.split(everyone, 4), [everyone[::-1]]):
        for part in parts:
            drawn = draw(part)
            assert (drawn.box == whole.box[part]).all() and (drawn.flip == whole.flip[part]).all()
    assert (whole[3:7].box == whole.box[3:7]).all() and (whole[3:7].flip == whole.flip[3:7]).all()
