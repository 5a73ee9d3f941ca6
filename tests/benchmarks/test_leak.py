"""`bench leak`: its second views are of other images of the group, and an unshuffled key has its query's statistics."""

import pytest
import torch

from benchmarks import leak
from dira_scale.methods.shuffle import SHUFFLES


def test_the_second_view_is_of_another_image_of_the_same_group() -> None:
    """By the contrast, as exact as 256 pixels tell it: the pairs are one shift within each group."""
    first, second = leak.noise(32, 4, torch.Generator().manual_seed(0))
    inner = slice(leak.FRAME, -leak.FRAME)
    assert (first.abs().sum() - first[..., inner, inner].abs().sum()).abs() < 1e-3 * first.abs().sum()  # a black frame
    contrasts = [view[..., inner, inner].std(dim=(1, 2, 3)).log() for view in (first, second)]
    for begin in range(0, 32, 8):
        a, b = (contrast[begin : begin + 8] for contrast in contrasts)
        errors = [(a.roll(shift) - b).abs().max().item() for shift in range(8)]
        assert min(errors) == min(errors[1:]) < 0.5 < errors[0]


@pytest.mark.parametrize("shuffle", leak.SHUFFLES)
def test_every_shuffle_trains(shuffle: str) -> None:
    result = leak.train(16, 2, shuffle, seed=0, steps=6)
    assert 0 <= result.times_chance <= 3 * 16 + 1
    assert (result.companions < 1) == (shuffle != "none") and set(SHUFFLES) < set(leak.SHUFFLES)


def test_a_query_is_right_if_no_negative_is_as_similar() -> None:
    eye = torch.eye(4)
    assert leak.times_chance(eye[:2], eye[:2], eye[2:]) == 3
    assert leak.times_chance(eye[:2], eye[[0, 2]], eye[1:3]) == pytest.approx(1.5)
