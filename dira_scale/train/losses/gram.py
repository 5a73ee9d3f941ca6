"""The Gram anchor of DINOv3 (Siméoni et al. 2025, sec. 4): how alike an image's patches are is held to what it was."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.train.losses.float32 import at_least_float32


def gram_loss(features: Tensor, anchor: Tensor) -> Tensor:
    """Return the mean over images and pairs of their patches of (x_i . x_j - y_i . y_j)^2, x and y of unit length: the
    squared Frobenius norm of X X^T - Y Y^T (eq. 2) over n^2. The paper does not divide; its factor of 2 is, in the
    released code, of the mean.

    Args:
        features: X [b, n, dim], a student's patch tokens.
        anchor: Y [b, n, any dim], those of an earlier network, without gradient.

    Example:
        >>> gram_loss(torch.eye(2)[None], torch.ones(1, 2, 3))  # cosines between two patches: 0, and 1
        tensor(0.5000)
    """
    with torch.autocast(features.device.type, enabled=False):
        x, y = (F.normalize(at_least_float32(each), dim=2) for each in (features, anchor.detach()))
        return (x @ x.mT - y @ y.mT).square().mean()


def reduced(patches: Tensor, grid: list[int], size: list[int]) -> Tensor:
    """Return ``patches`` [b, n, dim] of a ``grid`` (rows, columns) as those of one of ``size``: by cubic convolution
    (a = -3/4), as the released code does, where the anchor has seen the image larger (sec. 4.3)."""
    if grid == size:
        return patches
    maps = at_least_float32(patches).mT.unflatten(2, grid)
    return F.interpolate(maps, size=size, mode="bicubic", align_corners=False).flatten(2).mT
