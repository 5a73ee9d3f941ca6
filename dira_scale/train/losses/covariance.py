"""VICReg's loss, of variance, invariance and covariance (Bardes et al., ICLR 2022, sec. 4.1), for any loop."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dira_scale.base.arguments import AtLeast, checked
from dira_scale.train.distributed.collectives import gather
from dira_scale.train.losses.float32 import at_least_float32

EPSILON = 1e-4  # added to variances


class VICRegLoss(nn.Module):
    """L = invariance · s(z1, z2) + variance · (v(z1) + v(z2)) / 2 + covariance · (c(z1) + c(z2)) of the embeddings z1
    and z2 [n, D] of two views, with s the mean squared difference, v :func:`variance` and c :func:`covariance`.

    In training v and c are of the batches of all processes, whose gradients are averaged, as DistributedDataParallel
    does; in evaluation of this process's. Computed in at least float32.

    This is the released code's form. In the paper s is a sum over components (eq. 5), but a mean in its algorithm 1,
    and v is not halved (eq. 6).

    Args:
        invariance, variance, covariance: factors of the three parts, at least 0.

    Raises ArgumentError for factors outside their range.
    """

    @checked
    def __init__(
        self,
        invariance: Annotated[float, AtLeast(0)] = 25.0,
        variance: Annotated[float, AtLeast(0)] = 25.0,
        covariance: Annotated[float, AtLeast(0)] = 1.0,
    ) -> None:
        super().__init__()
        self.factors = invariance, variance, covariance

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        z1, z2 = at_least_float32(z1), at_least_float32(z2)
        with torch.autocast(z1.device.type, enabled=False):
            all1, all2 = (gather(z1), gather(z2)) if self.training else (z1, z2)
            parts = (F.mse_loss(z1, z2), (variance(all1) + variance(all2)) / 2, covariance(all1) + covariance(all2))
            return torch.stack([factor * part for factor, part in zip(self.factors, parts, strict=True)]).sum()


def variance(z: Tensor) -> Tensor:
    """Return the mean over the components of ``z`` [n, D] of max(0, 1 - sqrt(Var + 1e-4)) (eq. 1 and 2): 0.99 if all
    rows are equal.

    Example:
        >>> import torch
        >>> f"{variance(torch.ones(8, 16)):.2f}"
        '0.99'
    """
    var = (z - z.mean(0)).square().sum(0) / degrees(z)
    return F.relu(1 - (var + EPSILON).sqrt()).mean()


def covariance(z: Tensor) -> Tensor:
    """Return the sum of the squared covariances of two different components of ``z`` [n, D], divided by D (eq. 3 and
    4).

    Example:
        >>> import torch
        >>> covariance(torch.tensor([[1.0, 1.0], [-1.0, -1.0]])).item()  # each variance is 2, as is their covariance
        4.0
    """
    x = z - z.mean(0)
    # The squares of x^T x and of x x^T have one sum: of 256 images and 8,192 components the latter is a thousandth.
    products = x @ x.T if len(x) < x.shape[1] else x.T @ x
    off_diagonal = products.square().sum() - x.square().sum(0).square().sum()
    return off_diagonal / (degrees(z) ** 2 * z.shape[1])


def degrees(z: Tensor) -> int:
    """Return n - 1 of ``z`` [n, D], or 1 of a single row, whose deviations are 0."""
    return max(1, len(z) - 1)
