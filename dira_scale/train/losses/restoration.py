"""Distances of restored images from their targets: everywhere (DiRA, eq. 2), or where a mask hides (MAE, sec. 3)."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

# The mean over all pixels of (restored - target)^2 or |restored - target|, both [b, 1, *size] ("such as L1 or L2").
RESTORATION_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"mse": F.mse_loss, "l1": F.l1_loss}
)
EPSILON = 1e-6  # added to a block's variance (MAE's)


def hidden_mean(errors: Tensor, hidden: Tensor) -> Tensor:
    """Return the mean of ``errors`` [b, C, *size] over each sample's ``hidden`` voxels (bool [b, 1, *size]), then over
    samples.

    Example:
        >>> restored, target = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
        >>> hidden_mean((restored - target).square(), torch.rand(2, 1, 8, 8) > 0.5).item()
        1.0
    """
    count = errors.shape[1] * hidden.flatten(1).sum(1)
    return (errors.masked_fill(~hidden, 0.0).flatten(1).sum(1) / count.clamp(min=1)).mean()


def block_moments(x: Tensor, counts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each block of ``x`` [b, 1, *size], at each of its voxels; ``counts``: the blocks on
    each axis. MAE's normalised target is (x - mean) / deviation (He et al., CVPR 2022, sec. 3).

    Example:
        >>> mean, deviation = block_moments(torch.ones(2, 1, 8, 8), (2, 2))
        >>> mean.shape, mean.unique().item()
        (torch.Size([2, 1, 8, 8]), 1.0)
    """
    sides = [(count, n // count) for count, n in zip(counts, x.shape[2:], strict=True)]
    parts = x.reshape(*x.shape[:2], *(n for pair in sides for n in pair))
    var, mean = torch.var_mean(parts, dim=[*range(3, parts.dim(), 2)], keepdim=True)
    deviation = (var + EPSILON).sqrt()
    return mean.expand_as(parts).reshape(x.shape), deviation.expand_as(parts).reshape(x.shape)
