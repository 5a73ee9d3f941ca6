"""Prediction of one view's embedding from the other's (SimSiam, eq. 1; BYOL, eq. 2)."""

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
