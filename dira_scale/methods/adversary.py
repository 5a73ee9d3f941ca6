"""DiRA's adversary on patches (eq. 3): a least-squares GAN as in the released code, or the paper's minimax.

It is separate from the method: the training loop gives it its own optimizer and step.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from dira_scale.errors import UserError, nearest
from dira_scale.methods.pairs import at_least_float32
from dira_scale.models.discriminator import Discriminator

LOSSES = ("lsgan", "minimax")


class Adversary(nn.Module):
    """D distinguishes clean patches from restored ones. fp32 throughout; images [b, 1, *size] in [0, 1].

    ``lsgan`` (Mao et al., ICCV 2017), the configuration's default: D's target score is 1 for clean and 0 for restored
    patches, the generator's 1. ``minimax``: the score's sigmoid is the probability D(x) of a clean patch; D ascends
    E log D(x) + E log(1 - D(x')) (paper, eq. 3), and the generator descends it.

    ``dimensions``: of an image.

    Raises ``UserError`` for a loss that does not exist.
    """

    def __init__(self, loss: str = "lsgan", dimensions: int = 2) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise UserError(f"adversary.loss={loss}: expected {' or '.join(LOSSES)}{nearest(loss, LOSSES)}")
        self.loss = loss
        self.discriminator = Discriminator(dimensions)

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
        """The share of patches that D classifies correctly; 0.5 is chance."""
        threshold = 0.5 if self.loss == "lsgan" else 0.0
        correct = self._scores(real) > threshold, self._scores(fake) <= threshold
        return torch.stack([patches.float().mean() for patches in correct]).mean()

    def _scores(self, images: Tensor, parameters: dict[str, Tensor] | None = None) -> Tensor:
        """One score per patch, [b, 1, *size / 8], with ``parameters`` in place of D's own if given."""
        with torch.autocast(images.device.type, enabled=False):
            scores: Tensor = functional_call(self.discriminator, parameters or {}, (at_least_float32(images),))
            return scores
