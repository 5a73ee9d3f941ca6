"""Convolutions whose input gradient is differentiated again, as a gradient penalty needs.

With y = W * x, the input gradient is linear in dy and in W. Its gradient in W is the weight gradient of a convolution
over the incoming gradient: the layer's own kernel. torch computes it as a convolution with dy as its filter, which has
as many taps as the map has pixels (``_convolution_double_backward`` in ATen's Convolution.cpp; pytorch#54840 replaced
the same form of the input gradient, for which cuDNN took 20 to 100 seconds).
"""

from collections.abc import Sequence
from typing import Any

import torch
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
        y: Tensor = func(input, weight, bias, stride, padding, dilation, groups)
        return y
    axes = weight.dim() - 2
    sides = [[each] * axes if isinstance(each, int) else list(each) for each in (stride, padding, dilation)]
    y = _Convolution.apply(input, weight, bias, (*sides, False, [0] * axes, groups))
    return y


class _Convolution(torch.autograd.Function):
    """``settings``: the last arguments of ``aten::convolution``: stride, padding, dilation, …"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, settings: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings, ctx.bias_sizes = settings, None if bias is None else [len(bias)]
        y: Tensor = aten.convolution(x, weight, bias, *settings)
        return y

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
        dx: Tensor = aten.convolution_backward(dy, x, weight, None, *settings, [True, False, False])[0]
        return dx

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
        dy, weight = ctx.saved_tensors
        ddy = aten.convolution(ddx, weight, None, *ctx.settings) if ctx.needs_input_grad[0] else None
        mask = [False, ctx.needs_input_grad[1], False]
        dweight = aten.convolution_backward(dy, ddx, weight, None, *ctx.settings, mask)[1]
        return ddy, dweight, None, None
