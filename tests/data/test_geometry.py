"""Crops and flips: against a loop over samples, within their image, uniform where they must be."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dira_scale.data.geometry.plane import PlaneCrop
from dira_scale.data.geometry.volume import VolumeCrop
from dira_scale.pixels.boxes import Crop

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
