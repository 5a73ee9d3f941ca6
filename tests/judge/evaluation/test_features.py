"""Features of whole volumes, as of whole images; what of them travels to the device, and who decodes it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_run import write
from train.data.volumes import make, plain_view, random_volumes
from train.models.stub3d import TinyEncoder

from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.judge.evaluation.features import Images, features
from dira_scale.train.distributed import processes


@pytest.mark.parametrize(
    ("name", "cores", "workers", "threads"),
    [("cuda", 8, None, 7), ("cuda", 1, None, 1), ("cuda", 8, 5, 5), ("cpu", 8, None, 2), ("cpu", 1, None, 1)],
)
def test_as_many_threads_decode_as_in_training(
    name: str, cores: int, workers: int | None, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "default_threads", lambda: cores)
    dataset = make(tmp_path / "toy", random_volumes(1))
    assert Images(dataset, np.arange(1), 16, workers, device=torch.device(name)).workers == threads


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (lambda root: make(root, random_volumes(3)), torch.int16),
        (lambda root: ShardedDataset.open(write(root, bits=8)), torch.uint8),
        (lambda root: ShardedDataset.open(write(root, bits=16)), torch.uint16),
    ],
    ids=["volumes", "8 bits", "16 bits"],
)
def test_stored_integers_travel_and_become_what_they_were_before(
    made: Callable[[Path], ShardedDataset], kind: torch.dtype, tmp_path: Path
) -> None:
    """Scaled on the device by the float32 arithmetic that was NumPy's: the same bits."""
    dataset = made(tmp_path / "toy")
    images = Images(dataset, np.arange(3), 16, 1)
    (loaded,) = images.loaded([images.rows])
    assert loaded.stored.dtype == kind and loaded.copy_to("cpu").stored.dtype == kind
    low, high = (values.numpy().reshape(3, *(loaded.stored.dim() - 1) * [1]) for values in (loaded.low, loaded.high))
    expected = np.clip((loaded.stored.numpy().astype(np.float32) - low) / (high - low), 0, 1)
    (shown,) = images.batches(3)
    np.testing.assert_array_equal(shown.numpy(), expected)
    assert 0 < expected.mean() < 1


def test_volumes_are_shown_whole_and_averaged_over_space(tmp_path: Path) -> None:
    volumes = random_volumes(3)
    images, encoder = Images(make(tmp_path / "toy", volumes), np.arange(3), 16, 1), TinyEncoder(4)
    (shown,) = images.batches(3)
    whole = [plain_view(volume, (0, 0, 0, *volume.shape), (False,) * 3, (16,) * 3) for volume in volumes]
    expected = np.clip((np.stack(whole)[:, None] + 1024) / 4024, 0, 1)
    assert np.abs(shown.numpy() - expected).max() < 0.501 / 4024 + 1e-6
    pixels, (levels,) = features([encoder], images, [1, 2], 2)
    np.testing.assert_allclose(pixels, shown.flatten(1), atol=1e-6)
    with torch.inference_mode():
        maps = encoder(shown)
    for level, values in zip((1, 2), levels, strict=True):
        np.testing.assert_allclose(values, maps[level].mean((2, 3, 4)), atol=1e-5)
