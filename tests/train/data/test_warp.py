"""Views of images with masks: their warps, tones and crops against albumentations' formulas, plainly written."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from dira_scale.base.config.compose import compose
from dira_scale.train.data.distort import BatchedDistort, Distort, build
from dira_scale.train.data.distort.warp import Warping, uniform
from dira_scale.train.data.random import mix
from dira_scale.train.data.views import SizedCrop, Tone, ViewSpec, Warp, draw
from dira_scale.train.data.views.parts import (
    COLUMNS,
    ELASTIC,
    GRID,
    OPTICAL,
    UNWARPED,
    Blur,
    Cutout,
    InverseCutout,
    Jitter,
    Shuffle,
    Warps,
)
from dira_scale.train.methods import views_of

OFF: Any = {"flip": 0.0, "jitter": Jitter(p=0), "blur": Blur(p=0), "cutout": Cutout(p=0), "shuffle": Shuffle(p=0),
            "inverse_cutout": InverseCutout(p=0)}  # fmt: skip
B, SIZE = 28, 64  # 64 does not divide into the grid's five cells
SPEC = ViewSpec(size=SIZE, warp=Warp(p=0.8), **OFF)


def drawn(spec: ViewSpec, count: int = B, side: int = 300) -> Any:
    index = np.arange(count)
    return draw(spec, 3, 1, index, np.zeros(count, int), 0, np.full(count, side), np.full(count, side + 100))


def columns(warp: torch.Tensor) -> Warps:
    return Warps(*(part.numpy().astype(float) for part in warp.split(COLUMNS, 1)))


def elastic(noise: np.ndarray, affine: np.ndarray, spec: ViewSpec) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the source of each pixel."""
    size, scale = spec.size, spec.size / 224
    high, low = noise.astype(np.uint64)
    with np.errstate(over="ignore"):
        counter = ((high << np.uint64(24)) + low) * np.uint64(0xD1342543DE82EF95) + np.arange(
            1, 2 * size**2 + 1, dtype=np.uint64
        ) * np.uint64(0x9E3779B97F4A7C15)
    fields = 2 * (mix(counter) >> np.uint64(40)) * 2.0**-24 - 1
    dx, dy = (
        ndimage.gaussian_filter(field, spec.warp.sigma * scale) * spec.warp.alpha * scale**2
        for field in fields.reshape(2, size, size)
    )
    y, x = np.mgrid[:size, :size]
    (xx, xy), (yx, yy), (x0, y0) = affine.reshape(3, 2)
    return xx * (x + dx) + yx * (y + dy) + x0, xy * (x + dx) + yy * (y + dy) + y0


def grid(nodes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """albumentations' loop over cells."""
    maps, step = [], size // 5
    for ends in nodes.reshape(2, 7):
        source = np.zeros(size)
        for cell in range(6):
            start, end = cell * step, min((cell + 1) * step, size)
            source[start:end] = np.linspace(ends[cell], ends[cell + 1], end - start)
        maps.append(source)
    x, y = np.meshgrid(*maps)
    return x, y


def optical(k: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    camera = np.array([[size, 0, (size - 1) / 2], [0, size, (size - 1) / 2], [0, 0, 1]], float)
    lens = np.array([k, k, 0, 0, 0], float)
    x, y = cv2.initUndistortRectifyMap(camera, lens, np.eye(3), camera, (size, size), cv2.CV_32FC1)
    return x, y


def test_warped_images_and_masks_are_those_of_the_plain_maps() -> None:
    params = drawn(SPEC)[1]
    warps, kinds = columns(params.warp), params.warp[:, 0].int().tolist()
    assert {kinds.count(kind) > 3 for kind in (UNWARPED, ELASTIC, GRID, OPTICAL)} == {True}
    images = torch.rand(B, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.avg_pool2d(images, 5, 1, 2)  # smooth: maps differ by rounding
    masks = (images[:, 0] * 200).to(torch.int16)
    distort = build(SPEC)
    results, turned = distort(images, params), distort.turned_mask(masks, params)
    assert turned.dtype == torch.int16 and torch.equal(results, BatchedDistort(SPEC)(images, params))
    for i, kind in enumerate(kinds):
        if kind == UNWARPED:
            assert torch.equal(results[i], images[i]) and torch.equal(turned[i], masks[i])
            continue
        x, y = {
            ELASTIC: lambda i: elastic(warps.noise[i], warps.affine[i], SPEC),
            GRID: lambda i: grid(warps.nodes[i], SIZE),
            OPTICAL: lambda i: optical(warps.lens[i, 0], SIZE),
        }[kind](i)
        assert np.hypot(x - np.arange(SIZE), y - np.arange(SIZE)[:, None]).mean() > 0.2
        for channel, result in zip(images[i].numpy(), results[i].numpy(), strict=True):
            expected = ndimage.map_coordinates(channel, (y, x), order=1, mode="mirror")
            np.testing.assert_allclose(result, expected, atol=2e-4)
        nearest = ndimage.map_coordinates(masks[i].numpy(), (y, x), order=0, mode="mirror")
        clear = (np.abs(x - np.floor(x) - 0.5) > 1e-3) & (np.abs(y - np.floor(y) - 0.5) > 1e-3)
        np.testing.assert_array_equal(turned[i].numpy()[clear], nearest[clear])


def test_warps_are_drawn_as_albumentations_draws_them() -> None:
    spec = ViewSpec(size=224, warp=Warp(p=0.3), **OFF)
    params = drawn(spec, 6000)[1]
    warps, kinds = columns(params.warp), params.warp[:, 0]
    assert [float((kinds == kind).float().mean()) for kind in range(4)] == pytest.approx(
        [0.7, 0.1, 0.1, 0.1], abs=0.015
    )
    assert warps.lens.min() < -1.99 and warps.lens.max() > 1.99 and abs(warps.lens.mean()) < 0.05
    stretched = np.diff(warps.nodes.reshape(-1, 2, 7), axis=2)[..., :5] / 44
    assert (
        stretched.min() >= 0.6999
        and stretched.max() <= 1.3001
        and stretched.std() == pytest.approx(0.6 / 12**0.5, 0.02)
    )
    corners = np.array([[186, 186], [186, 38], [38, 38]], np.float32)  # 112 +- 74, of which cv2 makes the matrix
    for matrix in warps.affine[:5].reshape(-1, 3, 2):
        moved = (np.concatenate([corners, np.ones((3, 1))], 1) @ np.linalg.inv(np.c_[matrix, [0, 0, 1]]))[:, :2]
        assert 0.01 < np.abs(moved - corners).max() <= 3.61
        forth = cv2.getAffineTransform(corners, moved.astype(np.float32))
        np.testing.assert_allclose(np.c_[matrix, [0, 0, 1]] @ np.c_[forth.T, [0, 0, 1]], np.eye(3), atol=1e-4)
    displaced = Warping(spec)._field(params.warp[:4, 1:3])
    assert float(displaced.std()) == pytest.approx(120 * 3**-0.5 / (2 * np.pi**0.5 * 6), rel=0.1)
    assert len(uniform(torch.tensor([1, 2]), 1000).unique()) > 1990


def test_tone_is_either_brightness_and_contrast_or_a_power() -> None:
    spec = ViewSpec(size=16, tone=Tone(p=0.6), **OFF)
    params = drawn(spec, 400)[1]
    x = torch.rand(400, 1, 16, 16)
    result, (factor, added, power) = Distort(spec)(x, params).numpy(), params.tone.double().numpy().T
    plain = (factor == 1) & (added == 0)
    assert ((power != 1) & ~plain).sum() == 0
    assert ((power != 1).mean(), (~plain).mean()) == pytest.approx((0.3, 0.3), abs=0.07)
    assert (factor.min(), factor.max(), added.min(), added.max(), power.min(), power.max()) == pytest.approx(
        (0.8, 1.2, -0.2, 0.2, 0.8, 1.2), abs=0.01
    )
    for i, image in enumerate(x.numpy()):
        expected = np.clip(image * factor[i] + added[i], 0, 1) ** power[i]
        np.testing.assert_allclose(result[i], expected, atol=1e-6)


def test_sized_crops_have_the_images_aspect_or_are_all_of_it() -> None:
    geometry = drawn(ViewSpec(sized=SizedCrop(p=0.25), **OFF), 2000)[0]
    y, x, height, width = geometry.box.T
    whole = (height == 300) & (width == 400) & (y == 0) & (x == 0)
    assert whole.mean() == pytest.approx(0.75, abs=0.03) and not geometry.flip.any()
    share = height[~whole] / 300
    assert share.min() >= 0.69 and share.mean() == pytest.approx((156 + 224) / 448, abs=0.01)
    np.testing.assert_allclose(width[~whole] / 400, share, atol=0.004)
    assert (y + height).max() <= 300 and (x + width).max() <= 400 and x.max() > 80


def test_what_is_drawn_beside_is_what_was_drawn_without() -> None:
    """Other random numbers: a run that asks for none of these keeps its views."""
    both = [drawn(spec)[1] for spec in (ViewSpec(size=SIZE), ViewSpec(size=SIZE, warp=Warp(p=1), tone=Tone(p=1)))]
    for name in ("brightness", "sigma", "boxes", "swaps"):
        assert torch.equal(*(getattr(params, name) for params in both))
    assert both[0].warp.shape == both[0].tone.shape == (B, 0)
    assert torch.equal(both[1][8:20].warp, both[1].warp[8:20])


def test_the_views_of_masks_are_benchmark_transfer_learnings() -> None:
    spec = views_of(
        compose("finetune", ["init=random", "task=masks", "views=tune_masks", "data.shards=any", "data.size=224"])
    )
    assert (spec.sized, spec.tone) == (SizedCrop([156, 224], 0.25), Tone(gamma=[0.8, 1.2], p=0.3))  # type: ignore[arg-type]
    assert spec.warp == Warp(p=0.3)
    assert spec.count == 1 and not (spec.rotation or spec.flip or spec.jitter.p or spec.blur.p or spec.cutout.p)
