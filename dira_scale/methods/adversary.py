"""DiRA's adversary, a least-squares GAN on patches (eq. 3, in the form that the authors released).

It lives beside the method, not inside: the training loop gives it an optimizer and a step of its own.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dira_scale.models.discriminator import Discriminator


class Adversary(nn.Module):
    """D scores patches: 1 for a clean view, 0 for a restored one. fp32 throughout; images [b, 1, S, S] in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.discriminator = Discriminator()

    def generator_loss(self, restored: Tensor) -> Tensor:
        """Mean of (D(restored) - 1)^2, with gradient to ``restored`` and none to D."""
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        with torch.autocast(restored.device.type, enabled=False):
            return _mean_square(functional_call(self.discriminator, frozen, (restored.float(),)) - 1)

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Half of mean (D(real) - 1)^2 plus half of mean D(fake)^2, with gradient to D and none to ``fake``."""
        with torch.autocast(real.device.type, enabled=False):
            real_scores, fake_scores = self.discriminator(real.float()), self.discriminator(fake.detach().float())
            return 0.5 * (_mean_square(real_scores - 1) + _mean_square(fake_scores))


def _mean_square(scores: Tensor) -> Tensor:
    return scores.square().mean()
