"""SimCLR (Chen et al., ICML 2020), a base that is not in DiRA's paper: contrast within the batch."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.base.arguments import Above, AtLeast, checked
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.collectives import gather, rank
from dira_scale.train.losses.float32 import at_least_float32
from dira_scale.train.losses.info_nce import nt_xent
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.methods.pairs import check_accumulation, check_pair, note_matches
from dira_scale.train.models.heads import MLP
from dira_scale.train.models.network import Encoder


class SimCLR(Method):
    """Each view must find the other view of its image among both views of all others in the batch.

    L is ``train.losses.info_nce.nt_xent`` over the **global** batch in training, whatever ``model.bn_groups``; in
    evaluation over the current one. So steps cannot accumulate micro-batches, and validation losses compare only at
    the same ``validate.batch``. The released code's loss is twice the paper's, which is meant here.

    Monitors: ``top1``, how often an image's first embedding is nearest to its second in the batch; ``chance``.

    Args:
        dim: the embedding's length; the hidden layer has the encoder's channels (sec. 2.1) and, ours, BatchNorm.
        temperature: of the similarities, above 0.
    """

    trained_by_di = ("projector",)
    gradient_views = 2

    @checked
    def __init__(
        self,
        encoder: Encoder,
        views: ViewSpec,
        dim: Annotated[int, AtLeast(1)] = 128,
        temperature: Annotated[float, Above(0)] = 0.1,
    ) -> None:
        super().__init__(views, weights={"di": 1.0})
        check_pair("SimCLR", views)
        self.temperature = temperature
        self.encoder = encoder
        self.projector = MLP(encoder.channels[-1], encoder.channels[-1], dim, bias=False)

    def check(self, batch: int, accumulate: int) -> None:
        check_accumulation("SimCLR", accumulate)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        pyramids = self.encoder(distorted[0]), self.encoder(distorted[1])
        z1, z2 = (F.normalize(at_least_float32(self.projector(pyramid[-1])), dim=1) for pyramid in pyramids)
        all1, all2 = (gather(z) if self.training else z for z in (z1, z2))
        first = rank() * len(z1) if self.training else 0
        with torch.autocast(z1.device.type, enabled=False):
            loss = nt_xent(z1, z2, all1, all2, first, self.temperature)
        return note_matches(Terms({"di": loss}, pyramids=pyramids), z1, z2, self.training)
