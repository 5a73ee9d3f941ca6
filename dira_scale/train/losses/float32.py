"""The precision of losses."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or still in float64: autocast's half precision is too coarse for a loss."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
