"""Adversarial losses, of the scores that a discriminator gives to real and to generated patches, in any shape.

``lsgan`` (Mao et al., ICCV 2017): the target score is 1 for real and 0 for generated patches, the generator's 1.
``minimax`` (DiRA, eq. 3): a score's sigmoid is the probability D(x) of a real patch; the discriminator ascends
E log D(x) + E log(1 - D(x')), and the generator descends it. ``wgan`` (Gulrajani et al., NeurIPS 2017): a critic's
scores have no scale; :func:`gradient_penalty` keeps its slope near 1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten
Sides = int | Sequence[int]


class InputGradients(TorchFunctionMode):
    """Within, 2D and 3D convolutions are differentiable twice, at first by their input alone.

    A backward pass with ``create_graph`` gives weights and biases no gradient; one without gives them the complete one.
    Padding by name ("same") is left to torch.

    Example:
        >>> x, weight = torch.rand(2, 1, 16, 16, requires_grad=True), torch.rand(8, 1, 3, 3, requires_grad=True)
        >>> with InputGradients():
        ...     y = torch.conv2d(x, weight)
        >>> (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        >>> gradient.square().sum().backward()
        >>> weight.grad.shape
        torch.Size([8, 1, 3, 3])
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.conv2d, torch.conv3d):
            return _convolve(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _convolve(
    func: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sides = 1,
    padding: Sides | str = 0,
    dilation: Sides = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(padding, str):
        return func(input, weight, bias, stride, padding, dilation, groups)
    axes = weight.dim() - 2
    sides = [[n] * axes if isinstance(n, int) else list(n) for n in (stride, padding, dilation)]
    y = _Convolution.apply(input, weight, bias, (*sides, False, [0] * axes, groups))
    return y


class _Convolution(torch.autograd.Function):
    """``settings``: the last arguments of ``aten::convolution``: stride, padding, dilation, …"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, settings: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings, ctx.bias_sizes = settings, None if bias is None else [len(bias)]
        return aten.convolution(x, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx = _InputGradient.apply(dy, weight, x, ctx.settings) if ctx.needs_input_grad[0] else None
        if torch.is_grad_enabled():  # create_graph
            return dx, None, None, None
        mask = [False, *ctx.needs_input_grad[1:3]]
        _, dweight, dbias = aten.convolution_backward(dy, x, weight, ctx.bias_sizes, *ctx.settings, mask)
        return dx, dweight, dbias, None


class _InputGradient(torch.autograd.Function):
    """dx [b, C, ...] of dy; of ``x`` only shape, type and layout matter."""

    @staticmethod
    def forward(ctx: Any, dy: Tensor, weight: Tensor, x: Tensor, settings: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(dy, weight)
        ctx.settings = settings
        return aten.convolution_backward(dy, x, weight, None, *settings, [True, False, False])[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
        dy, weight = ctx.saved_tensors
        ddy = aten.convolution(ddx, weight, None, *ctx.settings) if ctx.needs_input_grad[0] else None
        mask = [False, ctx.needs_input_grad[1], False]
        dweight = aten.convolution_backward(dy, ddx, weight, None, *ctx.settings, mask)[1]
        return ddy, dweight, None, None


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
