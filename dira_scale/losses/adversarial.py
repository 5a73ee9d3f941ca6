"""Adversarial losses, of the scores that a discriminator gives to real and to generated patches, in any shape.

``lsgan`` (Mao et al., ICCV 2017): the target score is 1 for real and 0 for generated patches, the generator's 1.
``minimax`` (DiRA, eq. 3): a score's sigmoid is the probability D(x) of a real patch; the discriminator ascends
E log D(x) + E log(1 - D(x')), and the generator descends it. ``wgan`` (Gulrajani et al., NeurIPS 2017): a critic's
scores have no scale; :func:`gradient_penalty` keeps its slope near 1.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.losses.double_backward import InputGradients


def generator_loss(kind: str, scores: Tensor) -> Tensor:
    """Return the mean of (s - 1)^2, of log(1 - sigmoid(s)), or of -s over the ``scores`` of generated patches.

    Example:
        >>> generator_loss("lsgan", torch.ones(4, 1, 8, 8)).item()
        0.0
    """
    match kind:
        case "lsgan":
            return (scores - 1).square().mean()
        case "minimax":
            return F.logsigmoid(-scores).mean()
    return -scores.mean()


def discriminator_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """Return half of mean (r - 1)^2 plus half of mean f^2, -mean log sigmoid(r) - mean log(1 - sigmoid(f)), or
    mean f - mean r, of the scores r of ``real`` and f of ``fake`` patches.

    Example:
        >>> discriminator_loss("lsgan", torch.ones(4), torch.ones(4)).item()
        0.5
    """
    match kind:
        case "lsgan":
            return 0.5 * ((real - 1).square().mean() + fake.square().mean())
        case "minimax":
            return -F.logsigmoid(real).mean() - F.logsigmoid(-fake).mean()
    return fake.mean() - real.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], between: Tensor) -> Tensor:
    """Return the mean over samples of (|d ΣD / d x| - 1)^2 at the points ``between`` [b, ...] real and generated ones,
    the sum being over all scores of a sample; differentiable by the critic's parameters.

    Example:
        >>> gradient_penalty(torch.nn.Linear(3, 1), torch.randn(4, 3)).shape
        torch.Size([])
    """
    between = between.detach().requires_grad_()
    with InputGradients():
        scores = critic(between)
    (gradient,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()
