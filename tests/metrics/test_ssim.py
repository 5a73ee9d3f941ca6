"""Structural similarity on the device against scikit-image's."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from dira_scale.metrics.ssim import ssim


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
