"""VICReg (Bardes et al., ICLR 2022), a base that is not in DiRA's paper: variance, invariance, covariance."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.arguments import AtLeast, checked
from dira_scale.data.batch import Batch
from dira_scale.data.views import ViewSpec
from dira_scale.distributed.collectives import gather
from dira_scale.losses.covariance import covariance, variance
from dira_scale.losses.float32 import at_least_float32
from dira_scale.methods.method import Method, Terms
from dira_scale.methods.pairs import check_accumulation, check_pair, note_matches
from dira_scale.models.heads import MLP
from dira_scale.models.network import Encoder


class VICReg(Method):
    """Both views have one embedding, whose components vary over images and do not repeat one another.

    L = invariance · s(z1, z2) + variance · (v(z1) + v(z2)) / 2 + covariance · (c(z1) + c(z2)), with s the mean squared
    difference, v how far components' standard deviations are below 1, and c their squared covariances
    (``losses.covariance``), over the **global** batch in training, whatever ``model.bn_groups``; in evaluation over the
    current one. So steps cannot accumulate micro-batches. Collapsed embeddings have 0.99 ``variance``.

    This is the released code's form. In the paper s is a sum over components (eq. 5), but a mean in its algorithm 1,
    and v is not halved (eq. 6).

    Monitors: ``top1``, how often an image's first embedding is nearest to its second in the batch; ``chance``.

    Args:
        dim: width of the expander's three layers, the embedding's length; at least 1.
        invariance, variance, covariance: factors of the three parts, at least 0.

    Raises ArgumentError for settings outside their range.
    """

    trained_by_di = ("projector",)
    gradient_views = 2

    @checked
    def __init__(
        self,
        encoder: Encoder,
        views: ViewSpec,
        dim: Annotated[int, AtLeast(1)] = 8192,
        invariance: Annotated[float, AtLeast(0)] = 25.0,
        variance: Annotated[float, AtLeast(0)] = 25.0,
        covariance: Annotated[float, AtLeast(0)] = 1.0,
    ) -> None:
        super().__init__(views, weights={"di": 1.0})
        check_pair("VICReg", views)
        self.factors = invariance, variance, covariance
        self.encoder = encoder
        self.projector = MLP(encoder.channels[-1], dim, dim, dim, bias=False)

    def check(self, batch: int, accumulate: int) -> None:
        check_accumulation("VICReg", accumulate)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        pyramids = self.encoder(distorted[0]), self.encoder(distorted[1])
        z1, z2 = (at_least_float32(self.projector(pyramid[-1])) for pyramid in pyramids)
        with torch.autocast(z1.device.type, enabled=False):
            all1, all2 = (gather(z1), gather(z2)) if self.training else (z1, z2)
            parts = (
                F.mse_loss(z1, z2),
                (variance(all1) + variance(all2)) / 2,
                covariance(all1) + covariance(all2),
            )
            loss = torch.stack([factor * part for factor, part in zip(self.factors, parts, strict=True)]).sum()
        terms = Terms({"di": loss}, pyramids=pyramids, embeddings=(z1.detach(), z2.detach()))
        note_matches(terms, z1, z2, self.training)
        return terms
