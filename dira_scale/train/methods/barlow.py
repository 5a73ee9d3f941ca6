"""Barlow Twins (Zbontar et al., ICML 2021): DiRA's discrimination task by decorrelation."""

from typing import Annotated

import torch
from torch import Tensor

from dira_scale.base.arguments import Above, AtLeast, checked
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.collectives import gather, reduce_sum, world
from dira_scale.train.losses.float32 import at_least_float32
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.methods.pairs import check_accumulation, check_pair, note_matches
from dira_scale.train.models.heads import MLP
from dira_scale.train.models.network import Encoder

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


class BarlowTwins(Method):
    """Each component of the embedding must be the same for both views and uncorrelated with all other components.

    L = scale · (sum_i (1 - C_ii)^2 + off_diagonal · sum_{i≠j} C_ij^2) with C [dim, dim] the correlation of the views'
    embeddings over the **global** batch, whatever ``model.bn_groups``; in evaluation over the current batch. As it
    couples the whole batch, steps cannot accumulate micro-batches. Compare validation losses only at the same
    ``validate.batch``.

    Chance correlations of N unrelated samples contribute off_diagonal · dim² / N, 1,337 at 8,192 components and 256
    samples, and the diagonal up to dim, while DiRA's 10 L_re is of the order of 1. So under DiRA the loss is scaled by
    0.024, as in the authors' first code, with a rate of 0.2 for biases and norms; their current code has no factor and
    a rate of 0.0048 = 0.2 · 0.024. LARS normalises all other gradients, so for Barlow Twins alone both are the same
    training, but for the weight decay, which is relatively stronger with a smaller loss.

    Monitors, on the standardised embeddings that the loss compares: ``top1``, how often an image's first embedding is
    nearest to its second in the batch; ``chance``.

    Args:
        dim: width of the projector's three layers, the embedding's length; at least 1.
        off_diagonal: weight of the off-diagonal sum, the paper's lambda; at least 0.
        scale: of the whole loss, which is of the order of dim, to balance it with other terms; above 0.
    """

    trained_by_di = ("projector",)
    gradient_views = 2

    @checked
    def __init__(
        self,
        encoder: Encoder,
        views: ViewSpec,
        dim: Annotated[int, AtLeast(1)] = 8192,
        off_diagonal: Annotated[float, AtLeast(0)] = 0.0051,
        scale: Annotated[float, Above(0)] = 1.0,
    ) -> None:
        super().__init__(views, weights={"di": 1.0})
        check_pair("Barlow Twins", views)
        self.off_diagonal, self.scale = off_diagonal, scale
        self.encoder = encoder
        self.projector = MLP(encoder.channels[-1], dim, dim, dim, bias=False)

    def check(self, batch: int, accumulate: int) -> None:
        check_accumulation("Barlow Twins", accumulate)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        pyramids = self.encoder(distorted[0]), self.encoder(distorted[1])
        z1, z2 = (self.projector(pyramid[-1]) for pyramid in pyramids)
        with torch.autocast(z1.device.type, enabled=False):
            z1, z2 = (standardised(at_least_float32(z), self.training) for z in (z1, z2))
            correlation = cross_correlation(z1, z2, self.training)
            losses = {"di": self.scale * redundancy(correlation, self.off_diagonal)}
        return note_matches(Terms(losses, pyramids=pyramids), z1, z2, self.training)
