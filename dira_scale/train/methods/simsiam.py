"""SimSiam (Chen and He, CVPR 2021): DiRA's discrimination task without negatives (eq. 6 and 7)."""

from typing import Annotated

from torch import Tensor

from dira_scale.base.arguments import AtLeast, checked
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.losses.cosine import negative_cosine
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.methods.pairs import check_pair, note_matches
from dira_scale.train.models.heads import MLP
from dira_scale.train.models.network import Encoder


class SimSiam(Method):
    """Each view must predict the other's embedding: L = D(p1, sg(z2)) / 2 + D(p2, sg(z1)) / 2, D = -cosine.

    z is the projector's output for a view, p the ``predictor``'s for z. No gradient flows into z (``sg``), which
    prevents collapse. L is in [-1, 1], starts near 0 and must stay above -1, where all embeddings are the same. The
    released projector's last layer has 2,048 biases more, frozen at random values (12,593,152 parameters instead of
    12,591,104); the BatchNorm behind it removes them.

    Monitors: ``top1``, how often an image's first z is nearest to its second in the batch; ``chance``.

    Args:
        dim: width of the projector's three layers, the embedding's length; at least 1.
        bottleneck: the predictor's hidden width, at least 1.
    """

    trained_by_di = ("projector", "predictor")
    gradient_views = 2

    @checked
    def __init__(
        self,
        encoder: Encoder,
        views: ViewSpec,
        dim: Annotated[int, AtLeast(1)] = 2048,
        bottleneck: Annotated[int, AtLeast(1)] = 512,
    ) -> None:
        super().__init__(views, weights={"di": 1.0})
        check_pair("SimSiam", views)
        self.encoder = encoder
        self.projector = MLP(encoder.channels[-1], dim, dim, dim, normalised=True)
        self.predictor = MLP(dim, bottleneck, dim)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        pyramids = self.encoder(distorted[0]), self.encoder(distorted[1])
        z1, z2 = (self.projector(pyramid[-1]) for pyramid in pyramids)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        losses = {"di": (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2}
        return note_matches(Terms(losses, pyramids=pyramids), z1, z2, self.training)
