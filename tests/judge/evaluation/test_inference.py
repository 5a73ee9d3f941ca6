"""Images as shards have them, seen as one view or through windows, against SciPy, torch and MONAI called plainly."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from train.data.volumes import plain_view

from dira_scale.base.errors import UserError
from dira_scale.dataset.pixels.codecs import encode
from dira_scale.judge.evaluation.config import SLIDING, WHOLE
from dira_scale.judge.evaluation.inference import Stored, dense, fits, read_ahead
from dira_scale.train.data.geometry.fixed import centre

CPU = torch.device("cpu")


def volume(*shape: int) -> tuple[np.ndarray, Stored]:
    voxels = np.random.default_rng(0).integers(-1000, 1000, shape, np.int16)
    return voxels, Stored(encode(voxels, "npy"), "npy", shape, 3, -1000.0, 1000.0)


def network(x: Tensor) -> Tensor:
    """A function of the image and its window: a sum of neighbours, and what depends on the window's middle."""
    smooth = torch.nn.functional.avg_pool3d(x, 3, 1, 1)
    return torch.cat([smooth, x * smooth.mean((2, 3, 4), keepdim=True)], 1)


def test_windows_are_monais() -> None:
    pytest.importorskip("monai")
    from monai.inferers import sliding_window_inference

    voxels, stored = volume(11, 9, 20)
    image = torch.from_numpy((voxels.astype(np.float32) + 1000) / 2000)
    expected = sliding_window_inference(image[None, None], (8, 8, 8), 4, network, 0.5, "gaussian")
    torch.testing.assert_close(dense(network, stored, (8, 8, 8), SLIDING, CPU), expected[0])
    one_of_several = torch.device("cpu", 0)  # as processes that were launched together have it
    same = dense(lambda x: x, stored, (8, 16, 6), SLIDING, one_of_several)  # a voxel's Gaussian weights sum to 1
    torch.testing.assert_close(same, image[None], rtol=0, atol=1e-6)


def test_the_whole_is_resized_and_its_probabilities_are_resized_back() -> None:
    voxels, stored = volume(11, 9, 20)
    seen: list[Tensor] = []

    def noted(x: Tensor) -> Tensor:
        seen.append(x)
        return network(x)

    result = dense(noted, stored, (8, 8, 10), WHOLE, CPU)
    view = plain_view(voxels, (0, 0, 0, 11, 9, 20), (False,) * 3, (8, 8, 10))
    np.testing.assert_allclose(seen[0][0, 0].numpy(), (view + 1000) / 2000, atol=0.6 / 2000)  # rounded once
    at = [(np.arange(n) + 0.5) * side / n - 0.5 for n, side in zip((11, 9, 20), (8, 8, 10), strict=True)]
    for channel, of in zip(network(seen[0])[0].numpy(), result.numpy(), strict=True):
        for axis, where in enumerate(at):
            left = np.clip(np.floor(where), 0, channel.shape[axis] - 2).astype(int)
            share = np.clip(where - left, 0, 1).reshape([-1 if i == axis else 1 for i in range(3)])
            channel = np.take(channel, left, axis) * (1 - share) + np.take(channel, left + 1, axis) * share
        np.testing.assert_allclose(of, channel, atol=1e-6)


def test_an_image_of_several_channels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    stored = Stored(encode(pixels, "npy"), "npy", pixels.shape, 2, 0.0, 255.0)
    np.testing.assert_allclose(stored.image().numpy(), np.moveaxis(pixels, -1, 0) / np.float32(255), rtol=1e-6)
    assert stored.sides == (7, 9) and stored.channels == 3


def test_crops_have_the_type_that_is_stored_until_they_are_on_the_device() -> None:
    _, grey = volume(11, 9, 20)
    pixels = np.zeros((7, 9), np.uint8)
    image = Stored(encode(pixels, "npy"), "npy", pixels.shape, 2, 0.0, 255.0, bits=8)
    kinds = {replace(image, bits=bits).cropped(centre(2)[0], (4, 4)).dtype.name for bits in (8, 16)}
    assert kinds == {"uint8", "uint16"} and grey.cropped(centre(3)[0], (4, 4, 4)).dtype == np.int16


@pytest.mark.parametrize(("values", "fit"), [(256, True), (257, False)])
def test_windows_are_added_up_where_half_of_the_free_memory_is_enough(
    values: int, fit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,536 bytes that nobody has, and 512 of the 1,000 that torch has, are free."""
    for name, answer in {"mem_get_info": (1536, 9999), "memory_reserved": 1000, "memory_allocated": 488}.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, answer=answer: answer)
    assert fits(values, torch.device("cuda")) == fit


def test_reading_ahead_keeps_the_order_and_a_bound() -> None:
    begun: list[int] = []

    def read(item: int) -> int:
        begun.append(item)
        time.sleep(0.001 * (item % 3))
        return item * item

    results: list[Any] = []
    for result in read_ahead(read, range(20), 3):
        results.append(result)
        assert max(begun) <= len(results) + 3
    assert results == [n * n for n in range(20)]


def test_beside_a_gpu_processes_read_what_threads_do() -> None:
    """Also an image, its payload a view of a buffer."""
    _, stored = volume(11, 9, 20)
    items = [replace(stored, payload=memoryview(stored.payload), low=low) for low in (0.0, 1.0, 2.0)]
    for a, b in zip(*(read_ahead(Stored.image, items, 2, torch.device(kind)) for kind in ("cpu", "cuda")), strict=True):
        assert torch.equal(a, b)


def test_a_volume_is_seen_as_training_has_seen_it() -> None:
    """In a spacing of its own, from other values, padded; the probabilities are of the stored voxels again."""
    voxels, stored = volume(11, 9, 20)
    requested = replace(stored, spacing=(2.0, 1.0, 0.5)).seen(spacing=1.0, range=(-500, 500), pad=True)
    image = plain_view(voxels, (0, 0, 0, 11, 9, 20), (False,) * 3, (22, 9, 10))
    np.testing.assert_allclose(requested.image()[0], np.clip((image + 500) / 1000, 0, 1), atol=0.6 / 1000)
    (crop,) = centre(3, extent=(8, 16, 8))
    expected = plain_view(voxels, (4, -4, 2, 4, 16, 16), (False,) * 3, (8, 16, 8), outside=-500)
    shown = requested.view(crop, (8, 16, 8))[0]
    np.testing.assert_allclose(shown, np.clip((expected + 500) / 1000, 0, 1), atol=0.6 / 1000)
    assert (shown[:, :3] == 0).all() and (shown[:, -2:] == 0).all()
    for window in (WHOLE, SLIDING):
        if window == SLIDING:
            pytest.importorskip("monai")
        assert dense(network, requested, (8, 8, 8), window, CPU).shape == (2, 11, 9, 20)
    with pytest.raises(UserError, match=r"^data\.spacing=1\.0: a volume's spacing is unknown"):
        stored.seen(spacing=1.0)
