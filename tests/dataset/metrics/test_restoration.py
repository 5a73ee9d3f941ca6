"""The restoration table and SSIM against formulas, scikit-image, and an inpainting that can be told in advance."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from dira_scale.dataset.metrics.restoration import RestorationTable, by_plane, gaussian, nearest, telea
from dira_scale.dataset.metrics.ssim import ssim


def pictures(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    clean = generator.random((32, 32), dtype=np.float32)
    distorted = clean.copy()
    distorted[4:9, 5:12] = 0
    hole = np.zeros((32, 32), bool)
    hole[4:9, 5:12] = True
    return clean, distorted, hole, clean + np.float32(0.1)


def test_means_and_spread_over_images() -> None:
    table = RestorationTable()
    images = [pictures(seed) for seed in range(3)]
    for image in images:
        table.add(*image)
    rows = {row["restorer"]: row for row in table.rows("dir")}
    assert set(rows) == {"mean", "distorted", "blur", "telea", "restored"}
    assert rows["mean"]["mse"] == pytest.approx(np.mean([clean.var() for clean, *_ in images]), rel=1e-5)
    errors = [((distorted - clean) ** 2).mean() for clean, distorted, _, _ in images]
    assert rows["distorted"]["mse"] == pytest.approx(np.mean(errors)) and rows["distorted"]["n"] == 3
    assert rows["distorted"]["mse_sd"] == pytest.approx(np.std(errors, ddof=1))
    assert rows["restored"]["mse"] == pytest.approx(0.01, rel=1e-4)
    similar = [structural_similarity(clean, distorted, data_range=1.0) for clean, distorted, _, _ in images]
    assert rows["distorted"]["ssim"] == pytest.approx(np.mean(similar))


def test_the_blur_is_a_mean_of_five_by_five() -> None:
    clean, distorted, hole, restored = pictures(0)
    padded = np.pad(distorted, 2, mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))
    table = RestorationTable()
    table.add(clean, distorted, hole, restored)
    table.add(clean, distorted, hole, restored)
    expected = ((windows.mean((-1, -2)) - clean) ** 2).mean()
    assert {row["restorer"]: row["mse"] for row in table.rows("x")}["blur"] == pytest.approx(expected, rel=1e-4)


def test_inpainting_fills_the_hole_and_nothing_else() -> None:
    """A constant picture comes back whole; black that is no hole stays black."""
    picture = np.full((32, 32), 0.6, np.float32)
    picture[:, :4] = 0
    hole = np.zeros((32, 32), bool)
    hole[10:20, 12:22] = True
    filled = telea(np.where(hole, np.float32(0), picture), hole)
    np.testing.assert_allclose(filled, picture, atol=2.5 / 255)


def test_a_volume_is_blurred_plane_by_plane() -> None:
    planes = [pictures(seed) for seed in range(8)]
    volume = [np.stack(parts) for parts in zip(*planes, strict=True)]
    np.testing.assert_array_equal(by_plane(telea, volume[1], volume[2]), np.stack([telea(p[1], p[2]) for p in planes]))
    table, each = RestorationTable(), RestorationTable()
    for _ in range(2):
        table.add(*volume)
    for plane in planes:
        each.add(*plane)
    errors = [{row["restorer"]: row["mse"] for row in of.rows("x")} for of in (table, each)]
    assert [*errors[0]] == ["mean", "distorted", "blur", "nearest", "gaussian", "restored"]
    for name in ("distorted", "blur", "restored"):
        assert errors[0][name] == pytest.approx(errors[1][name], rel=1e-5)


def hidden_box() -> tuple[np.ndarray, np.ndarray]:
    """A volume in steps of .1 along its first axis, and a box in it."""
    volume = np.broadcast_to(np.linspace(0, 0.9, 10, dtype=np.float32)[:, None, None], (10, 12, 14)).copy()
    hole = np.zeros(volume.shape, bool)
    hole[2:7, 3:12, 2:13] = True
    return volume, hole


def test_holes_of_volumes_take_the_nearest_voxel() -> None:
    """By looking at all visible voxels; a voxel between two may take either."""
    volume, hole = hidden_box()
    filled = nearest(np.where(hole, np.float32(7), volume), hole)
    visible = np.argwhere(~hole)
    for voxel in np.argwhere(hole):
        squared = ((visible - voxel) ** 2).sum(1)
        assert filled[tuple(voxel)] in volume[tuple(visible[squared == squared.min()].T)]
    assert np.array_equal(filled[~hole], volume[~hole])


def test_holes_of_volumes_take_a_gaussian_mean_of_what_is_visible() -> None:
    """Where the mirrored edges do not count: the plain weighted mean. What was in the hole does not matter."""
    volume, hole = np.random.default_rng(0).random((21, 21, 21), dtype=np.float32), np.zeros((21, 21, 21), bool)
    hole[9:12, 9:12, 9:12] = True
    filled = gaussian(np.where(hole, np.float32(7), volume), hole)
    steps = np.arange(21) - 10
    kernel = np.exp(-0.5 * (np.add.outer(np.add.outer(steps**2, steps**2), steps**2)))  # of sigma 1
    kernel *= np.abs(np.stack(np.meshgrid(steps, steps, steps))).max(0) <= 4
    weights = np.where(hole, 0, kernel)
    assert filled[10, 10, 10] == pytest.approx((weights * volume).sum() / weights.sum(), rel=1e-4)
    assert np.array_equal(filled[~hole], volume[~hole])
    whole, nothing = np.ones_like(hole), np.zeros_like(hole)
    for fill in (nearest, gaussian):
        assert np.array_equal(fill(volume, nothing), volume) and np.array_equal(fill(volume, whole), volume)


@pytest.mark.parametrize("size", [(40, 33), (14, 16, 13)], ids=["images", "volumes"])
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.5])
def test_it_is_scikit_images(noise: float, size: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    clean = np.clip(np.cumsum(generator.normal(0, 0.05, (3, *size)), axis=2) + 0.5, 0, 1)
    other = np.clip(clean + generator.normal(0, noise, clean.shape), 0, 1)
    ours = ssim(torch.tensor(clean)[:, None], torch.tensor(other)[:, None])
    expected = [structural_similarity(a, b, data_range=1.0) for a, b in zip(clean, other, strict=True)]
    np.testing.assert_allclose(ours, expected, atol=1e-9)


def test_an_image_smaller_than_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="window of 7"):
        ssim(torch.zeros(1, 1, 6, 40), torch.zeros(1, 1, 6, 40))
