"""Bootstrap your own latent (Grill et al., NeurIPS 2020): a base that is not in DiRA's paper."""

from typing import Annotated

import torch
from torch import Tensor

from dira_scale.base.arguments import AtLeast, Within, checked
from dira_scale.base.machine.graphs import launch
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.losses.cosine import negative_cosine
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.methods.pairs import check_pair, note_matches
from dira_scale.train.models.heads import MLP
from dira_scale.train.models.momentum import ema_update, momentum_copy, rising
from dira_scale.train.models.network import Encoder


class BYOL(Method):
    """Each view must predict the other's embedding by the target network, a moving average of the online network.

    L = |p1 - z2'|^2 + |p2 - z1'|^2 of unit vectors (eq. 2, both ways), 2 - 2 cosine each: in [0, 8], 4 at the start.
    p is the ``predictor``'s output for the online network's embedding, z' the target network's embedding. Gradients
    reach the online network only; the target network is an exponential moving average of its parameters, fp32. The
    momentum grows from ``momentum`` to 1 by half a cosine over the stage (sec. 3.2).

    Monitors: ``top1``, how often an image's first embedding is nearest to its second in the batch, both from the online
    network; ``chance``.

    Args:
        hidden: width of the hidden layers of projector and predictor, at least 1.
        dim: the embedding's length, at least 1.
        momentum: of the target network at a stage's first step, 0 to 1.
    """

    trained_by_di = ("projector", "predictor")
    gradient_views = 2
    momentum_encoder = "target_encoder"

    @checked
    def __init__(
        self,
        encoder: Encoder,
        views: ViewSpec,
        hidden: Annotated[int, AtLeast(1)] = 4096,
        dim: Annotated[int, AtLeast(1)] = 256,
        momentum: Annotated[float, Within(0, 1)] = 0.996,
    ) -> None:
        super().__init__(views, weights={"di": 1.0})
        check_pair("BYOL", views)
        self.momentum = momentum
        self.encoder = encoder
        self.projector = MLP(encoder.channels[-1], hidden, dim)
        self.predictor = MLP(dim, hidden, dim)
        self.target_encoder, self.target_projector = momentum_copy(self.encoder), momentum_copy(self.projector)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        pyramids = self.encoder(distorted[0]), self.encoder(distorted[1])
        z1, z2 = (self.projector(pyramid[-1]) for pyramid in pyramids)
        with torch.no_grad():
            target1, target2 = (self.target_projector(self.target_encoder(view)[-1]) for view in distorted)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        losses = {"di": 4 + 2 * (negative_cosine(p1, target2) + negative_cosine(p2, target1))}
        return note_matches(Terms(losses, pyramids=pyramids), z1, z2, self.training)

    @torch.no_grad()
    def after_step(self) -> None:
        """target <- m target + (1 - m) online."""
        assert self.training, "after_step follows a training step"
        online = [*self.encoder.parameters(), *self.projector.parameters()]
        target = [*self.target_encoder.parameters(), *self.target_projector.parameters()]
        launch(lambda: ema_update(target, online, 1.0 - rising(self.momentum, self.progress)))
