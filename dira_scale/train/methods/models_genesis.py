"""Models Genesis (Zhou et al., MICCAI 2019; MedIA 2021, sec. 3): restore what transformations have deformed."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dira_scale.train.data.batch import Batch
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.methods.method import Method, Terms, check_weights
from dira_scale.train.methods.restoration import check_single, of_known
from dira_scale.train.models.network import Network


class ModelsGenesis(Method):
    """An image or volume x is deformed by f, and encoder and decoder must return it: L = mean (g(f(x)) - x)^2.

    g ends with a sigmoid, as intensities are in [0, 1]. f is what the views do: in the paper non-linear intensity,
    local shuffling, in- and out-painting (``configs/views/models_genesis.yaml``). Flips are of x itself, so the target
    has them, too. It is DiRA's stage ``terms=[re]`` on one view, without a base that idles.

    With a weight for ``ad``, DiRA's adversary judges what is restored, in stages that have this term: so
    Rubik's Cube++ (Tao et al., MICCAI 2020) restores a volume whose blocks are turned
    (``configs/views/rubiks_cube_pp.yaml``).

    Different from the authors' code: each axis is mirrored with probability 0.5, theirs in a loop that mirrors x and y
    in 15 % of the cubes and z never (``preset=released``); BatchNorm is evaluated with running statistics, theirs with
    the batch's; crops are anywhere, theirs leave out cubes of which more than 15 % are denser than -150 HU.

    Args:
        weights: of the terms ``re`` and, with an adversary, ``ad``, at least 0.

    Raises ArgumentError unless there is one view, and for an unknown or missing weight.
    """

    decoder: nn.Module

    def __init__(self, network: Network, views: ViewSpec, weights: Mapping[str, float] | None = None) -> None:
        weights = {"re": 1.0} if weights is None else dict(weights)
        check_weights(weights, ("re",) if set(weights) == {"re"} else ("re", "ad"))
        super().__init__(views, weights)
        check_single("Models Genesis", views)
        self.encoder, self.decoder, self.head = network.encoder, network.decoder, network.head

    def enter_stage(self, terms: Sequence[str]) -> None:
        super().enter_stage(terms)
        self.requires_grad_(bool(self.active))

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        target, pyramid = clean[0], self.encoder(distorted[0])
        restored = torch.sigmoid(self.head(self.decoder(pyramid)).to(target.dtype))
        restored = of_known(restored, target, batch)
        losses = {"re": F.mse_loss(restored, target)} if "re" in self.active else {}
        return Terms(losses, restored, target, pyramids=(pyramid,))
