"""Structural similarity of images and volumes, on any device."""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 7  # pixels on each axis, evenly weighted: scikit-image's default
C1, C2 = 0.01**2, 0.03**2  # for images in [0, 1]


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of each pair, [n] (Wang et al., IEEE TIP 2004, eq. 13), over inner windows; [n, 1, *size] in [0, 1].

    Raises ``ValueError`` for images smaller than a window.
    """
    if min(a.shape[2:]) < WINDOW:
        raise ValueError(f"images of {tuple(a.shape[2:])} pixels are smaller than a window of {WINDOW}")
    mean = F.avg_pool2d if a.dim() == 4 else F.avg_pool3d
    mean_a, mean_b, aa, bb, ab = mean(torch.cat([a, b, a * a, b * b, a * b], dim=1), WINDOW, stride=1).unbind(1)
    count = WINDOW ** (a.dim() - 2)
    unbiased = count / (count - 1)
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    covariance, variances = ab - mean_a * mean_b, aa - mean_a**2 + bb - mean_b**2
    structure = (2 * unbiased * covariance + C2) / (unbiased * variances + C2)
    return (luminance * structure).flatten(1).mean(1)
