"""Structural similarity on the device, for monitors; tables are made with scikit-image's."""

import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS, SIGMA = 5, 1.5  # pixels: the 11 x 11 Gaussian window of the paper
C1, C2 = 0.01**2, 0.03**2  # for images in [0, 1]


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Wang et al. (IEEE TIP 2004, eq. 13) of each pair, [n], over the windows that lie inside; [n, 1, H, W] in [0, 1].

    Raises ``ValueError`` for images smaller than a window.
    """
    if min(a.shape[-2:]) <= 2 * RADIUS:
        raise ValueError(f"images of {tuple(a.shape[-2:])} pixels hold no window of {2 * RADIUS + 1}")
    a, b = a.float(), b.float()
    offsets = torch.arange(-RADIUS, RADIUS + 1, device=a.device, dtype=torch.float32)
    window = torch.softmax(-offsets.square() / (2 * SIGMA**2), dim=0)
    planes = torch.cat([a, b, a * a, b * b, a * b], dim=1).flatten(0, 1)[:, None]
    blurred = F.conv2d(F.conv2d(planes, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))
    mean_a, mean_b, aa, bb, ab = blurred.view(len(a), 5, *blurred.shape[-2:]).unbind(1)
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * (ab - mean_a * mean_b) + C2) / (aa - mean_a**2 + bb - mean_b**2 + C2)
    return (luminance * structure).mean(dim=(1, 2))
