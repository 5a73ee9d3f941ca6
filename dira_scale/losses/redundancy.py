"""Redundancy reduction (Barlow Twins; Zbontar et al., ICML 2021): components that agree in both views, and in nothing
else. In training, means and products are over the batches of all processes, whose sizes are equal."""

import torch
from torch import Tensor

from dira_scale.distributed.collectives import gather, reduce_sum, world

EPSILON = 1e-5  # added to the variances (BatchNorm's)


def redundancy(correlation: Tensor, off_diagonal: float) -> Tensor:
    """Return sum_i (1 - C_ii)^2 + off_diagonal · sum_{i≠j} C_ij^2 of C [D, D] (eq. 1).

    Example:
        >>> z1, z2 = (standardised(torch.randn(32, 16), training=True) for _ in range(2))
        >>> redundancy(cross_correlation(z1, z2, training=True), off_diagonal=0.0051).shape
        torch.Size([])
    """
    diagonal = correlation.diagonal()
    # All squares minus the diagonal's, to avoid a second [D, D] of 256 MB.
    others = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + off_diagonal * others


def standardised(z: Tensor, training: bool) -> Tensor:
    """Return z [b, D] with mean 0 and variance 1 per component over the batch, differentiable through both."""
    var, mean = torch.var_mean(z, dim=0, correction=0)
    if training:
        means, variances = gather(torch.stack([mean, var])[None]).unbind(1)
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
    return (z - mean) * torch.rsqrt(var + EPSILON)


def cross_correlation(z1: Tensor, z2: Tensor, training: bool) -> Tensor:
    """Return C_ij [D, D], the mean over the batch of z1_i z2_j; both are [b, D] and standardised (eq. 2)."""
    product = z1.T @ z2
    return reduce_sum(product) / (len(z1) * world()) if training else product / len(z1)
