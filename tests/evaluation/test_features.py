"""Features of whole volumes, as of whole images."""

from pathlib import Path

import numpy as np
import torch
from data.volumes import make, plain_view, random_volumes
from models.stub3d import TinyEncoder

from dira_scale.evaluation.features import Images, features


def test_volumes_are_shown_whole_and_averaged_over_space(tmp_path: Path) -> None:
    volumes = random_volumes(3)
    images, encoder = Images(make(tmp_path / "toy", volumes), np.arange(3), 16, 1), TinyEncoder(4)
    (shown,) = images.batches(3)
    whole = [plain_view(volume, (0, 0, 0, *volume.shape), (False,) * 3, (16,) * 3) for volume in volumes]
    expected = np.clip((np.stack(whole)[:, None] + 1024) / 4024, 0, 1)
    assert np.abs(shown.numpy() - expected).max() < 0.501 / 4024 + 1e-6
    pixels, (levels,) = features([encoder], images, [1, 2], 2, torch.device("cpu"))
    np.testing.assert_allclose(pixels, shown.flatten(1), atol=1e-6)
    with torch.inference_mode():
        maps = encoder(shown)
    for level, values in zip((1, 2), levels, strict=True):
        np.testing.assert_allclose(values, maps[level].mean((2, 3, 4)), atol=1e-5)
