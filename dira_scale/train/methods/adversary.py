"""DiRA's adversary on patches (eq. 3): a least-squares GAN as in the released code, or the paper's minimax; in 3D also
the Wasserstein one of the authors' script.

It is separate from the method: the training loop gives it its own optimizer and step.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from dira_scale.base.arguments import checked
from dira_scale.train.data.batch import Batch, per_sample
from dira_scale.train.data.distort.corruptions.draws import hashed, unit
from dira_scale.train.losses import adversarial
from dira_scale.train.losses.float32 import at_least_float32
from dira_scale.train.models import norm
from dira_scale.train.models.architecture import Architecture
from dira_scale.train.models.classifier import CoarsestMap
from dira_scale.train.models.discriminator import Discriminator
from dira_scale.train.models.grouped_norm import Recomputing
from dira_scale.train.models.network import CONVOLUTIONS
from dira_scale.train.models.norm_act import plain

WASSERSTEIN = ("wgan_gp", "wgan_gp_released")
LOSSES = ("lsgan", "minimax", *WASSERSTEIN)


class Adversary(nn.Module):
    """D distinguishes clean patches from restored ones. Images [b, C, *size] are in [0, 1].

    ``lsgan`` (Mao et al., ICCV 2017), the configuration's default: D's target score is 1 for clean and 0 for restored
    patches, the generator's 1. ``minimax``: the score's sigmoid is the probability D(x) of a clean patch; D ascends
    E log D(x) + E log(1 - D(x')) (paper, eq. 3), and the generator descends it.

    D has four blocks of convolution and InstanceNorm without weights, and a scoring convolution, as released: 1,554,433
    parameters, a map of 28 x 28 scores at 224 pixels.

    ``dimensions`` and ``channels``: of an image. ``precision``: of D, whatever autocast is around it: ``fp32``, or
    ``bf16`` by autocast. Scores and losses are fp32.

    Raises ArgumentError for a loss that does not exist.
    """

    validated: ClassVar[bool] = True  # whether the generator's loss counts in validation: it means the same at any time
    loss: str
    precision = "fp32"
    discriminator: nn.Module

    @checked
    def __init__(
        self,
        loss: Literal["lsgan", "minimax"] = "lsgan",
        dimensions: int = 2,
        precision: str = "fp32",
        channels: int = 1,
    ) -> None:
        super().__init__()
        self.loss, self.precision = loss, precision
        self.discriminator = Discriminator(dimensions, channels)

    def beside(self, restored: Tensor, distorted: tuple[Tensor, ...], batch: Batch) -> tuple[Tensor, ...]:
        """Return further arguments of its losses, beside the images, for the ``distorted`` views and the batch."""
        return ()

    def generator_loss(self, restored: Tensor) -> Tensor:
        """Mean of (D(restored) - 1)^2, or of log(1 - D(restored)); gradient to ``restored`` and none to D."""
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        return adversarial.generator_loss(self.loss, self._scores(restored, frozen))

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Half of mean (D(real) - 1)^2 plus half of mean D(fake)^2, or -mean log D(real) - mean log(1 - D(fake)).

        With gradient to D and none to ``fake``. Both are one batch: InstanceNorm normalises each image by itself.
        """
        scores = self._scores(torch.cat([real, fake.detach()]))
        return adversarial.discriminator_loss(self.loss, *scores.split([len(real), len(fake)]))

    @torch.no_grad()
    def accuracy(self, real: Tensor, fake: Tensor) -> Tensor:
        """The share of patches that D classifies correctly; 0.5 is chance."""
        threshold = 0.5 if self.loss == "lsgan" else 0.0
        correct = self._scores(real) > threshold, self._scores(fake) <= threshold
        return torch.stack([patches.float().mean() for patches in correct]).mean()

    def _scores(self, images: Tensor, parameters: dict[str, Tensor] | None = None) -> Tensor:
        """One score per patch, [b, 1, *size / 8], with ``parameters`` in place of D's own if given."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            scores: Tensor = functional_call(self.discriminator, parameters or {}, (at_least_float32(images),))
        return at_least_float32(scores)


class Wasserstein(Adversary):
    """A conditional Wasserstein GAN with gradient penalty (Gulrajani et al., NeurIPS 2017), as the 3D script of DiRA's
    authors has it: D scores pairs of a clean or restored view and the distorted one, as two channels (or of each of
    theirs).

    D is an encoder of the method's architecture and a 1 x 1 x 1 convolution: of ``unet3d`` 7,029,153 parameters. Its
    BatchNorm takes the statistics of each batch (clean, restored, between), in the groups of the global batch.

    ``wgan_gp``: between is u · clean + (1 - u) · restored with the distorted view; ``wgan_gp_released``: with itself,
    as in the script. u is from [0, 1), for each sample and step. D takes one step for each of the generator's.

    Different from the script: generator and D learn from the same pass and the same weights (there D first, on a cube
    restored in evaluation mode); D's rate is constant (there halved with the generator's every 16 epochs, the first
    time after 15, and the generator's is 1e-4 where it starts from weights, 1e-2 for the classifier alone, batch 16); a
    worsening validation loss is no improvement (there the comparison is inverted); Glorot's initialisation and Keras'
    BatchNorm (1e-3, momentum 0.99) are PyTorch's; an option that takes the size of D's mean alone is not offered.

    Args:
        penalty: factor of (|d ΣD / d pair| - 1)^2: the norm of each pair's gradient, the sum over all patches.
        model: the method's.
        size: of a view.
        channels: of it.
    """

    validated = False  # scores have no fixed scale
    compiles: ClassVar[bool] = False  # torch differentiates no compiled graph twice, as the penalty does

    def __init__(
        self, loss: str, penalty: float, model: Architecture, size: int | tuple[int, ...], channels: int = 1
    ) -> None:
        nn.Module.__init__(self)
        self.loss, self.penalty = loss, penalty
        encoder = model.build_encoder(size, channels=2 * channels)
        score = CONVOLUTIONS[model.dimensions](encoder.channels[-1], 1, kernel_size=1)
        # The penalty's gradient is differentiated again.
        self.discriminator = norm.convert(nn.Sequential(encoder, CoarsestMap(), score), by_formula=True)

    def beside(self, restored: Tensor, distorted: tuple[Tensor, ...], batch: Batch) -> tuple[Tensor, ...]:
        """The distorted views and u [v·b] of their samples, the same however processes share the batch."""
        views = len(restored) // len(batch.index)
        number = torch.arange(views, dtype=torch.int32, device=batch.index.device)
        u = unit(hashed((batch.index + (batch.step << 32))[:, None], number)).T.flatten()
        return torch.cat(distorted[:views]), u

    def generator_loss(self, restored: Tensor, distorted: Tensor, u: Tensor) -> Tensor:  # type: ignore[override]
        """-mean D(restored); gradient to ``restored`` and none to D."""
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        return adversarial.generator_loss("wgan", self._scores(torch.cat([restored, distorted], 1), frozen))

    def discriminator_loss(self, real: Tensor, fake: Tensor, distorted: Tensor, u: Tensor) -> Tensor:  # type: ignore[override]
        """mean D(fake) - mean D(real) + the penalty; gradient to D and none to ``fake``."""
        fake = fake.detach()
        scores = [self._scores(torch.cat([images, distorted], 1)) for images in (fake, real)]
        share = per_sample(u, real).to(real.dtype)
        between = share * real + (1 - share) * fake
        pair = torch.cat([between, between if self.loss == "wgan_gp_released" else distorted], 1)
        penalty = adversarial.gradient_penalty(self._scores, pair)
        return adversarial.discriminator_loss("wgan", scores[1], scores[0]) + self.penalty * penalty

    @torch.no_grad()
    def accuracy(self, real: Tensor, fake: Tensor, distorted: Tensor, u: Tensor) -> Tensor:  # type: ignore[override]
        """The share of patches that D scores higher in the clean view than in the restored one; 0.5 is chance."""
        scores = [self._scores(torch.cat([images, distorted], 1)) for images in (real, fake)]
        return (scores[0] > scores[1]).float().mean()

    def _scores(self, images: Tensor, parameters: dict[str, Tensor] | None = None) -> Tensor:
        # No running statistics: D is not evaluated. Fused attention and norms cannot be differentiated twice.
        with Recomputing(), sdpa_kernel(SDPBackend.MATH), plain():
            return super()._scores(images, parameters)


def adversary_of(
    loss: str,
    penalty: float,
    model: Architecture,
    size: int | tuple[int, ...],
    precision: str = "fp32",
    channels: int = 1,
) -> Adversary:
    """The adversary of ``adversary.*`` for restored views of ``size``."""
    if loss in WASSERSTEIN:
        return Wasserstein(loss, penalty, model, size, channels)
    return Adversary(loss, model.dimensions, precision, channels)  # type: ignore[arg-type]  # it refuses others
