"""DiRA's adversary on patches (eq. 3): as the authors released it, a least-squares GAN, or to the paper's letter.

It lives beside the method, not inside: the training loop gives it an optimizer and a step of its own.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from dira_scale.config.schema import Schema, one_of
from dira_scale.errors import UserError, nearest
from dira_scale.methods.pairs import at_least_float32
from dira_scale.models.discriminator import Discriminator

LOSSES = ("lsgan", "minimax")


@dataclass
class AdversaryConfig(Schema):
    loss: str = one_of(*LOSSES)


class Adversary(nn.Module):
    """D tells clean patches from restored ones. fp32 throughout; images [b, 1, S, S] in [0, 1].

    ``lsgan`` (Mao et al., ICCV 2017), the default of the configuration: the score is drawn to 1 for a clean patch and
    to 0 for a restored one; the generator draws it to 1. ``minimax``: the score's sigmoid is the probability D(x) of a
    clean patch; D ascends E log D(x) + E log(1 - D(x')) (paper, eq. 3), and the generator descends it.

    Raises ``UserError`` for a loss that does not exist.
    """

    def __init__(self, loss: str = "lsgan") -> None:
        super().__init__()
        if loss not in LOSSES:
            raise UserError(f"adversary.loss: '{loss}' is not {' or '.join(LOSSES)}{nearest(loss, LOSSES)}")
        self.loss = loss
        self.discriminator = Discriminator()

    def generator_loss(self, restored: Tensor) -> Tensor:
        """Mean of (D(restored) - 1)^2, or of log(1 - D(restored)); gradient to ``restored`` and none to D."""
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        scores = self._scores(restored, frozen)
        return (scores - 1).square().mean() if self.loss == "lsgan" else F.logsigmoid(-scores).mean()

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Half of mean (D(real) - 1)^2 plus half of mean D(fake)^2, or -mean log D(real) - mean log(1 - D(fake)).

        With gradient to D and none to ``fake``.
        """
        real_scores, fake_scores = self._scores(real), self._scores(fake.detach())
        if self.loss == "lsgan":
            return 0.5 * ((real_scores - 1).square().mean() + fake_scores.square().mean())
        return -F.logsigmoid(real_scores).mean() - F.logsigmoid(-fake_scores).mean()

    @torch.no_grad()
    def accuracy(self, real: Tensor, fake: Tensor) -> Tensor:
        """The share of patches that D judges right; 0.5 where it cannot tell."""
        clean_from = 0.5 if self.loss == "lsgan" else 0.0
        right = self._scores(real) > clean_from, self._scores(fake) <= clean_from
        return torch.stack([judged.float().mean() for judged in right]).mean()

    def _scores(self, images: Tensor, parameters: dict[str, Tensor] | None = None) -> Tensor:
        """One score a patch, [b, 1, S/8, S/8]; by other ``parameters`` than D's own if any are given."""
        with torch.autocast(images.device.type, enabled=False):
            scores: Tensor = functional_call(self.discriminator, parameters or {}, (at_least_float32(images),))
            return scores
