"""Mirrorings and quarter turns against numpy, one sample at a time."""

import numpy as np
import pytest
import torch

from dira_scale.data.geometry.orientation import INDICATOR, indicator, reorient

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
