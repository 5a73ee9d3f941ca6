"""Variance and covariance of an embedding's components over a batch (VICReg: Bardes et al., ICLR 2022, sec. 4.1)."""

import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-4  # added to variances


def variance(z: Tensor) -> Tensor:
    """Return the mean over the components of ``z`` [n, D] of max(0, 1 - sqrt(Var + 1e-4)) (eq. 1 and 2): 0.99 if all
    rows are equal.

    Example:
        >>> import torch
        >>> f"{variance(torch.ones(8, 16)):.2f}"
        '0.99'
    """
    var = centred(z).square().sum(0) / degrees(z)
    return F.relu(1 - (var + EPSILON).sqrt()).mean()


def covariance(z: Tensor) -> Tensor:
    """Return the sum of the squared covariances of two different components of ``z`` [n, D], divided by D (eq. 3 and
    4).

    Example:
        >>> import torch
        >>> covariance(torch.tensor([[1.0, 1.0], [-1.0, -1.0]])).item()  # each variance is 2, as is their covariance
        4.0
    """
    x = centred(z)
    # The squares of x^T x and of x x^T have one sum: of 256 images and 8,192 components the latter is a thousandth.
    products = x @ x.T if len(x) < x.shape[1] else x.T @ x
    others = products.square().sum() - x.square().sum(0).square().sum()
    return others / (degrees(z) ** 2 * z.shape[1])


def centred(z: Tensor) -> Tensor:
    """Return ``z`` [n, D] minus its mean over the rows."""
    return z - z.mean(0)


def degrees(z: Tensor) -> int:
    """Return n - 1 of ``z`` [n, D], or 1 of a single row, whose deviations are 0."""
    return max(1, len(z) - 1)
