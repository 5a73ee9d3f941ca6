"""Structural similarity on the device, for monitors; tables use scikit-image's."""

import math

import torch
from torch import Tensor

RADIUS, SIGMA = 5, 1.5  # pixels: the Gaussian window of the paper, 11 on each axis
_TAPS = [math.exp(-0.5 * (offset / SIGMA) ** 2) for offset in range(-RADIUS, RADIUS + 1)]
WINDOW = [tap / sum(_TAPS) for tap in _TAPS]
C1, C2 = 0.01**2, 0.03**2  # for images in [0, 1]


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of each pair, [n] (Wang et al., IEEE TIP 2004, eq. 13), over inner windows; [n, 1, *size] in [0, 1].

    Raises ``ValueError`` for images smaller than a window.
    """
    if min(a.shape[2:]) <= 2 * RADIUS:
        raise ValueError(f"images of {tuple(a.shape[2:])} pixels are smaller than a window of {2 * RADIUS + 1}")
    a, b = a.float(), b.float()
    mean_a, mean_b, aa, bb, ab = _blurred(torch.cat([a, b, a * a, b * b, a * b], dim=1)).unbind(1)
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * (ab - mean_a * mean_b) + C2) / (aa - mean_a**2 + bb - mean_b**2 + C2)
    similarity = luminance * structure
    return similarity.mean(dim=tuple(range(1, similarity.dim())))


def _blurred(x: Tensor) -> Tensor:
    """Gaussian filter without padding: [n, C, *size] -> the same, with 2 RADIUS less on each axis.

    Shifts and sums: a one-channel convolution takes many times the images' memory on a CPU, and on a GPU it may, like a
    matrix product, run in TF32, which is too coarse for the differences of squares that follow.
    """
    for axis in range(x.dim() - 1, 1, -1):
        size = x.shape[axis] - 2 * RADIUS
        blurred = WINDOW[0] * x.narrow(axis, 0, size)
        for shift, tap in enumerate(WINDOW[1:], start=1):
            blurred.add_(x.narrow(axis, shift, size), alpha=tap)
        x = blurred
    return x
