"""PCRL's contrast beside rotation prediction (Zhou et al., ICCV 2021, table 2, "ContraLoss + RotNet")."""

from functools import wraps
from typing import Any

from torch import Tensor

from dira_scale.train.data.batch import Batch
from dira_scale.train.data.geometry.orientation import reorient
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.losses.classification import classified
from dira_scale.train.methods.method import Terms
from dira_scale.train.methods.pcrl import PCRL
from dira_scale.train.models.heads import MLP
from dira_scale.train.models.network import Network


class PCRLRotation(PCRL):
    """The first view x is seen once more, turned by g_y of 0, 90, 180 or 270 degrees, and a linear classifier on the
    encoder's global average must tell which (Gidaris et al., ICLR 2018):

        L_di = InfoNCE(o, m) - log p(y | g_y(x)), the means over the batch

    The paper's row is that of ``mixture=false`` in stages without ``re``. It says no more of it; ours: one turn of each
    view, drawn as that of T, within the plane of the last two axes, and terms of equal weight.

    Monitors: PCRL's; ``rotation_accuracy``, to which chance is 1/4.

    Args:
        settings: PCRL's.

    Raises ArgumentError as PCRL.
    """

    trained_by_di = ("projector", "classifier")

    @wraps(PCRL.__init__)  # type: ignore[misc]  # its signature, by which settings are checked
    def __init__(self, network: Network, views: ViewSpec, **settings: Any) -> None:
        super().__init__(network, views, **settings)
        self.classifier = MLP(network.encoder.channels[-1], 4)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        terms = super().forward(clean, distorted, batch)
        if "di" in self.active:
            turn = batch.distortions[0].orientations[:, 0].clone()
            turn[:, :-1] = 0  # T's mirrorings
            logits = self.classifier(self.encoder(reorient(distorted[0], turn))[-1])
            loss, told = classified(logits, turn[:, -1].long())
            terms.losses["di"] = terms.losses["di"] + loss
            terms.monitors["rotation_accuracy"] = told["accuracy"]
        return terms
