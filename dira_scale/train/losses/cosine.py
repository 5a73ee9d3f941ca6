"""Prediction of one embedding from another: of a view from the other (SimSiam, eq. 1; BYOL, eq. 2), of a teacher."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.train.losses.float32 import at_least_float32


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Return D(p, z) = -p·z / (|p| |z|), the mean over b, without gradient to ``target``; both are [b, D].

    BYOL's squared distance of unit vectors is 2 + 2 D.

    Example:
        >>> p1, z2 = torch.randn(8, 128), torch.randn(8, 128)
        >>> -1 <= negative_cosine(p1, z2).item() <= 1
        True
    """
    with torch.autocast(prediction.device.type, enabled=False):
        p, z = at_least_float32(prediction), at_least_float32(target.detach())
        return -F.cosine_similarity(p, z, dim=1).mean()


def cosine_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Return 1 + D(p, z), in [0, 2], the mean over b; both are [b, D]."""
    return 1 + negative_cosine(prediction, target)


def dense_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Return 0.9 (1 + D(p, z)) + 0.1 smooth L1 (AM-RADIO: Ranzinger et al., CVPR 2024), the mean over n places, without
    gradient to ``target``; both are [n, D]."""
    with torch.autocast(prediction.device.type, enabled=False):
        smooth = F.smooth_l1_loss(at_least_float32(prediction), at_least_float32(target.detach()))
        return 0.9 * cosine_distance(prediction, target) + 0.1 * smooth
