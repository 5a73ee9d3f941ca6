"""Convolutions in bf16 on a CPU: each computes in fp32 where its weight gradient is known, or found, to be wrong.

With AVX-512 but without AMX, oneDNN (3.12, torch 2.13) returns weight gradients in bf16 that contain memory that was
never written where the input is smaller than the kernel: a kernel of 3 over volumes 2 voxels deep, a stride of 2 over
1 pixel, a transposed convolution whose result is that small. NaN is the better case; the other is a wrong gradient that
nobody sees. Some write beyond their own memory, so these are not tried, but always computed in fp32. On such a CPU
every other convolution is tried once on random numbers before it trains.
"""

import logging
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from dira_scale.base.machine.hardware import bf16_without_amx
from dira_scale.train.distributed.precision import autocast as autocast_on
from dira_scale.train.distributed.precision import choose

logger = logging.getLogger(__name__)
KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
TRANSPOSED = KINDS[3:]
SETTINGS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
TOLERANCE = 0.02  # relative error of a weight gradient; bf16's rounding alone is 0.003 to 0.005
TRIES = 3  # memory that was never written may hold the right number by chance
BATCH = 2


def guard(module: nn.Module) -> nn.Module:
    """Let each convolution of ``module`` compute in fp32 where autocast on a CPU would get its weight gradient wrong.

    Its result has autocast's dtype, as that of any other. Returns ``module``; guarding it again changes nothing.
    """
    for layer in module.modules():
        convolution = isinstance(layer, KINDS) and max(layer.kernel_size) > 1
        if convolution and not isinstance(layer, _Guarded):
            kind: Any = type(layer)
            layer.__class__ = _guarded(kind)
    return module


def autocast(network: nn.Module, precision: str = "auto") -> AbstractContextManager[Any]:
    """Return a context for forward passes of ``network``, in the precision that training would use on its device.

    ``auto`` is bf16 where the hardware computes it, otherwise fp32. On a CPU, convolutions whose bf16 gradients are
    wrong there compute in fp32. Example::

        with api.autocast(network):
            loss = criterion(network(images), targets)
        loss.backward()
    """
    device = next(network.parameters()).device
    if device.type == "cpu":
        guard(network)
    return autocast_on(device, choose(precision, device))


class _Guarded(nn.Module):
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or self._is_right(x):
            return super().forward(x, *args)
        with torch.autocast("cpu", enabled=False):
            y: Tensor = super().forward(x.float(), *args)
        return y.to(torch.get_autocast_dtype("cpu"))

    def _is_right(self, x: Tensor) -> bool:
        extents = [step * (edge - 1) + 1 for edge, step in zip(self.kernel_size, self.dilation, strict=True)]
        size = list(x.shape[2:])
        if isinstance(self, TRANSPOSED):  # its gradient is that of a convolution over the result, of this size at least
            axes = zip(size, self.stride, extents, self.padding, strict=True)
            size = [(n - 1) * stride + extent - 2 * padding for n, stride, extent, padding in axes]
        if any(edge < extent for edge, extent in zip(size, extents, strict=True)):
            return False
        # A compiler and the planner's fake tensors have no numbers to try.
        if type(x) is not Tensor or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return True
        return not bf16_without_amx() or is_right(self, tuple(x.shape[2:]))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies, and what is unpickled, are guarded, too; pickle does not know the class by name."""
        return _empty, (type(self).__bases__[1],), self.__getstate__()


def is_right(layer: Any, size: tuple[int, ...]) -> bool:
    """Return whether bf16 gives a convolution like ``layer`` fp32's weight gradient, over an input of ``size``.

    Tried once a process for each kind of layer and size, in milliseconds: of a large input, on a part of it.
    """
    kind = next(kind for kind in KINDS if isinstance(layer, kind))
    names = SETTINGS + (("output_padding",) if kind in TRANSPOSED else ())
    settings = tuple((name, getattr(layer, name)) for name in names)
    axes = zip(size, layer.kernel_size, layer.dilation, strict=True)
    return _tried(kind, settings, tuple(min(n, 2 * step * edge + 2) for n, edge, step in axes))


@cache
def _tried(kind: Any, settings: tuple[tuple[str, Any], ...], size: tuple[int, ...]) -> bool:
    arguments = dict(settings)
    generator = torch.Generator().manual_seed(0)  # the run's random numbers stay as they are
    layer = nn.utils.skip_init(kind, **arguments, bias=False)
    nn.init.normal_(layer.weight, generator=generator)
    x = torch.randn(BATCH, arguments["in_channels"], *size, generator=generator)
    # Activation checkpointing, which may be at work around this, must not count what is saved here.
    hooks = partial(torch.autograd.graph.saved_tensors_hooks, Tensor.detach, Tensor.detach)
    with torch.enable_grad(), hooks(), torch.autocast("cpu", enabled=False):
        dy = torch.randn(layer(x).shape, generator=generator)
        exact = _weight_gradient(layer, x, dy)
    with torch.enable_grad(), hooks(), torch.autocast("cpu", torch.bfloat16):
        errors = [(_weight_gradient(layer, x, dy) - exact).norm() / exact.norm() for _ in range(TRIES)]
    if all(error < TOLERANCE for error in errors):  # NaN is not
        return True
    kernel, channels = arguments["kernel_size"], f"{arguments['in_channels']} to {arguments['out_channels']} channels"
    logger.warning(
        "bf16 gradients of a %s (kernel %s, %s) over %s are wrong on this CPU (torch %s): it computes in fp32",
        kind.__name__, kernel, channels, size, torch.__version__,
    )  # fmt: skip
    return False


def _weight_gradient(layer: Any, x: Tensor, dy: Tensor) -> Tensor:
    """The gradient, computed in memory that holds NaN: what is read before it is written shows."""
    y = layer(x)
    for exponent in range(10, 18):  # floats
        [torch.full((2**exponent,), torch.nan) for _ in range(4)]  # at once, then freed
    (gradient,) = torch.autograd.grad(y, layer.weight, dy.to(y.dtype))
    return gradient.float()


def _empty(kind: Any) -> nn.Module:
    guarded: Any = _guarded(kind)
    return guarded.__new__(guarded)


@cache
def _guarded(kind: Any) -> Any:
    """``kind`` with :class:`_Guarded` before it."""
    return type(kind.__name__, (_Guarded, kind), {})
