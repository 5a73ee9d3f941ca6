"""DiRA's restoration task: undo the distortion, pixel by pixel (eq. 2)."""

import torch.nn.functional as F
from torch import Tensor


def restoration_loss(restored: Tensor, target: Tensor) -> Tensor:
    """Mean over all pixels of (restored - target)^2, both [b, 1, S, S] in [0, 1]."""
    return F.mse_loss(restored, target)
