"""LeJEPA (Balestriero and LeCun 2025): prediction among views, and SIGReg. A base that is not in DiRA's paper."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.base.arguments import AtLeast, Within, checked
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.distort.corruptions.draws import hashed, unit
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.collectives import reduce_sum
from dira_scale.train.losses.distillation import one_process
from dira_scale.train.losses.sigreg import epps_pulley
from dira_scale.train.methods.dino import GLOBAL, check_global, encoded, projected, pyramid
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.methods.pairs import check_accumulation, note_matches
from dira_scale.train.models.heads import MLP
from dira_scale.train.models.network import Encoder


class LeJEPA(Method):
    """Every view's embedding must be the mean of the global views', and embeddings of images a standard normal
    distribution.

    L = (1 - sigreg) · the mean of (z - mean over global views of z)² over views, images and components + sigreg · the
    mean over views and directions of the statistic of Epps and Pulley of z along a direction (``losses.sigreg``), over
    the **global** batch in training; in evaluation over the current one (algorithms 1 and 2). So steps cannot
    accumulate micro-batches, and validation losses compare at the same ``validate.batch`` only. Directions are drawn
    anew, from the step's number. There is no teacher and no stopped gradient; two views, both global, are enough.

    What a view is as a whole is a transformer's class token, or the mean of the last map. The projector is that of the
    authors' minimal example, without the linear layer before it: all views share its BatchNorm.

    Monitors: ``top1``, how often an image's first embedding is nearest to its second in the batch, both of global
    views; ``chance``.

    Args:
        dim: the embedding's length, at least 1.
        hidden: width of the projector's two hidden layers, at least 1.
        sigreg: SIGReg's share of the loss, the paper's lambda; 0 to 1.
        slices: number of directions, at least 1.

    Raises ArgumentError for settings outside their range, and unless there are two global views of one size.
    """

    trained_by_di = ("projector",)
    gradient_views = GLOBAL
    encoder: Encoder

    @checked
    def __init__(
        self,
        encoder: Encoder,
        views: ViewSpec,
        dim: Annotated[int, AtLeast(1)] = 512,
        hidden: Annotated[int, AtLeast(1)] = 2048,
        sigreg: Annotated[float, Within(0, 1)] = 0.05,
        slices: Annotated[int, AtLeast(1)] = 1024,
    ) -> None:
        super().__init__(views, weights={"di": 1.0})
        check_global("LeJEPA", views)
        self.dim, self.sigreg, self.slices = dim, sigreg, slices
        self.encoder = encoder
        self.projector = MLP(encoder.channels[-1], hidden, hidden, dim)

    def check(self, batch: int, accumulate: int) -> None:
        check_accumulation("LeJEPA", accumulate)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        terms, z = projected(self.encoder, self.projector, distorted, self.finer)
        with torch.autocast(z.device.type, enabled=False):
            prediction = (z - z[:GLOBAL].mean(0)).square().mean()
            along = z @ directions(self.dim, self.slices, batch.step, z.device).to(z)
            statistic = epps_pulley(along, reduce_sum if self.training else one_process).mean()
            terms.losses["di"] = (1 - self.sigreg) * prediction + self.sigreg * statistic
        first, second = z[:GLOBAL].detach().unbind()
        return note_matches(terms, first, second, self.training)

    def pyramids(self, distorted: tuple[Tensor, ...], batch: Batch) -> tuple[list[Tensor], ...]:
        return tuple(map(pyramid, encoded(self.encoder, distorted)))


def directions(dim: int, count: int, seed: int | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Return ``count`` directions of unit length [dim, count], which depend on ``seed`` alone: float32, up to rounding.

    Made on the ``device``, by normal numbers (Box and Muller 1958) of hashed places: nothing is copied to it.
    """
    key = torch.zeros((), dtype=torch.int64, device=device) + seed
    key = key * (0x9E3779B97F4A7C15 - 2**64) % 2**48  # which divides 2^64, modulo which int64 multiplies
    places = torch.arange(dim * count + dim * count % 2, dtype=torch.int32, device=device)
    length, angle = unit(hashed(key, places)).view(2, -1)
    length, angle = (-2 * (1 - length).log()).sqrt(), 2 * math.pi * angle
    normal = torch.cat([length * angle.cos(), length * angle.sin()])[: dim * count]
    return F.normalize(normal.view(dim, count), dim=0)
