"""Views of images in colour: brightness, contrast, saturation, hue and grey, by torchvision and by colorsys."""

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from dira_scale.train.data.distort import build, build_batched
from dira_scale.train.data.distort import colour as distort_colour
from dira_scale.train.data.distort.corruptions import Bezier
from dira_scale.train.data.views import COLOUR, Blur, Cutout, Distortion, InverseCutout, Jitter, Shuffle, ViewSpec, draw

OFF = {"blur": Blur(p=0), "cutout": Cutout(p=0), "inverse_cutout": InverseCutout(p=0), "shuffle": Shuffle(p=0)}
SPEC = ViewSpec(size=16, jitter=Jitter(0.8, 0.8, 0.9, saturation=0.8, hue=0.2), grey=0.2, **OFF)  # SimCLR, strength 1


def images(count: int, channels: int = 3) -> torch.Tensor:
    x = torch.rand(count, channels, 16, 16, generator=torch.Generator().manual_seed(0))
    x[:, :, :4] = (x[:, :1, :4] * 3).round() / 3  # grey, black and white pixels
    x[:, :, 4:6] = x[:, :, 4:6].round()  # pure colours
    return x


def drawn(index: np.ndarray, spec: ViewSpec = SPEC, epoch: int = 0) -> Distortion:
    return draw(spec, 5, epoch, index, np.zeros(len(index), int), 0, *[np.full(len(index), 99)] * 2)[1]


@pytest.mark.parametrize("make", [build, build_batched], ids=["one_by_one", "at_once"])
def test_colours_are_jittered_as_torchvision_does(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distort_colour, "one_by_one", lambda x: make is build)  # else a CPU has one way alone
    x, params = images(40), drawn(np.arange(40))
    colour, result = params.corruptions[COLOUR], make(SPEC)(x, params)
    for i, image in enumerate(x):
        ways = (
            lambda y, i=i: functional.adjust_brightness(y, float(params.brightness[i])),
            lambda y, i=i: functional.adjust_contrast(y, float(params.contrast[i])),
            lambda y, i=i: functional.adjust_saturation(y, float(colour["saturation"][i])),
            lambda y, i=i: functional.adjust_hue(y, float(colour["hue"][i])),
        )
        for operation in colour["order"][i].tolist():
            image = ways[operation](image)
        image = functional.rgb_to_grayscale(image, 3) if colour["grey"][i] else image
        assert torch.allclose(result[i], image, atol=2e-5), i


def test_what_is_drawn_is_the_samples_own_and_leaves_the_rest_as_it_was() -> None:
    """Each order as often; within the ranges; whatever the batch; brightness and contrast as without colours."""
    index = np.arange(4800)
    params, colour = drawn(index), drawn(index).corruptions[COLOUR]
    count = [int((colour["order"] == torch.tensor(order)).all(1).sum()) for order in permutations(range(4))]
    assert sum(count) == 4800 and max(abs(n - 200) for n in count) < 5 * math.sqrt(200)
    on = colour["saturation"] != 1
    assert abs(on.float().mean() - 0.9) < 0.03 and torch.equal(on, params.brightness != 1)
    assert colour["saturation"].min() >= 0.2 and colour["saturation"].max() <= 1.8
    assert colour["hue"].abs().max() <= 0.2 and colour["hue"][on].abs().mean() == pytest.approx(0.1, rel=0.05)
    assert colour["grey"].float().mean() == pytest.approx(0.2, abs=0.03)
    part = drawn(index[7:9]).corruptions[COLOUR]
    assert all(torch.equal(part[name], colour[name][7:9]) for name in colour)
    assert not torch.equal(drawn(index, epoch=1).corruptions[COLOUR]["hue"], colour["hue"])
    plain = drawn(index, replace(SPEC, jitter=Jitter(0.8, 0.8, 0.9), grey=0.0))
    assert COLOUR not in plain.corruptions
    for name in ("brightness", "contrast", "contrast_first", "sigma", "branch"):
        assert torch.equal(getattr(plain, name), getattr(params, name))
    first = (colour["order"] == 1).int().argmax(1) < (colour["order"] == 0).int().argmax(1)
    assert torch.equal(first, params.contrast_first)


def test_grey_images_have_no_colours_to_change() -> None:
    """With `plan`, which knows no images, and before `require_channels` refuses them."""
    x, params = images(8, channels=1), drawn(np.arange(8))
    plain = replace(SPEC, jitter=Jitter(0.8, 0.8, 0.9), grey=0.0)
    assert torch.equal(build(SPEC)(x, params), build(plain)(x, params))


def test_a_curve_is_the_same_for_all_three_channels() -> None:
    spec = replace(SPEC, jitter=Jitter(p=0), grey=0.0, corruptions={"bezier": Bezier(p=1.0)})
    x, params = images(6), drawn(np.arange(6), spec)
    result = build(spec)(x, params)
    for channel in range(3):
        alone = build(spec)(x[:, channel : channel + 1], params)
        assert torch.allclose(result[:, channel], alone[:, 0], atol=1e-6)
