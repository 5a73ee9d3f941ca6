"""DiRA's restoration task: undo the distortion pixel by pixel (eq. 2, with a distance "such as L1 or L2")."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor

# Mean over all pixels of (restored - target)^2 or |restored - target|, both [b, 1, *size] in [0, 1].
RESTORATION_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"mse": F.mse_loss, "l1": F.l1_loss}
)
