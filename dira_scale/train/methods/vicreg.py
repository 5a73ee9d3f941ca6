"""VICReg (Bardes et al., ICLR 2022), a base that is not in DiRA's paper: variance, invariance, covariance."""

from typing import Annotated

from torch import Tensor

from dira_scale.base.arguments import AtLeast, checked
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.losses.covariance import VICRegLoss
from dira_scale.train.losses.float32 import at_least_float32
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.methods.pairs import check_accumulation, check_pair, note_matches
from dira_scale.train.models.heads import MLP
from dira_scale.train.models.network import Encoder


class VICReg(Method):
    """Both views have one embedding, whose components vary over images and do not repeat one another.

    L is ``train.losses.covariance.VICRegLoss``, over the **global** batch in training, whatever ``model.bn_groups``; in
    evaluation over the current one. So steps cannot accumulate micro-batches. Collapsed embeddings have 0.99
    ``variance``.

    Monitors: ``top1``, how often an image's first embedding is nearest to its second in the batch; ``chance``.

    Args:
        dim: width of the expander's three layers, the embedding's length; at least 1.
        invariance, variance, covariance: factors of the loss's parts, at least 0.
    """

    trained_by_di = ("projector",)
    gradient_views = 2

    @checked
    def __init__(
        self,
        encoder: Encoder,
        views: ViewSpec,
        dim: Annotated[int, AtLeast(1)] = 8192,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
    ) -> None:
        super().__init__(views, weights={"di": 1.0})
        check_pair("VICReg", views)
        self.loss = VICRegLoss(invariance, variance, covariance)
        self.encoder = encoder
        self.projector = MLP(encoder.channels[-1], dim, dim, dim, bias=False)

    def check(self, batch: int, accumulate: int) -> None:
        check_accumulation("VICReg", accumulate)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        pyramids = self.encoder(distorted[0]), self.encoder(distorted[1])
        z1, z2 = (at_least_float32(self.projector(pyramid[-1])) for pyramid in pyramids)
        return note_matches(Terms({"di": self.loss(z1, z2)}, pyramids=pyramids), z1, z2, self.training)
