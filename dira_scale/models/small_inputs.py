"""Convolutions whose input is smaller than their kernel, on a CPU: in fp32.

oneDNN's weight gradients of these in bf16 (``jit_bf16``: AVX-512 without AMX; torch 2.13, oneDNN 3.12) contain memory
that was never written, and some write beyond their own: a kernel of 3 over volumes 2 voxels deep, a stride of 2 over
1 pixel. NaN is the better case; the other is a wrong gradient that nobody sees.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


def in_fp32(module: nn.Module) -> None:
    """Let each convolution of ``module`` compute in fp32 where autocast is on and the input is smaller than the kernel.

    Its result has autocast's dtype, as that of any other. Calling this again changes nothing.
    """
    for layer in module.modules():
        convolution = isinstance(layer, nn.Conv2d | nn.Conv3d) and max(layer.kernel_size) > 1
        if convolution and not isinstance(layer, _Fp32WhereSmall):
            kind: Any = type(layer)
            layer.__class__ = _with_fp32(kind)


class _Fp32WhereSmall(nn.Module):
    kernel_size: tuple[int, ...]
    dilation: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:
        extents = [step * (edge - 1) + 1 for edge, step in zip(self.kernel_size, self.dilation, strict=True)]
        small = any(edge < extent for edge, extent in zip(x.shape[2:], extents, strict=True))
        if not small or x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            y: Tensor = super().forward(x.float())
        return y.to(torch.get_autocast_dtype("cpu"))


@cache
def _with_fp32(kind: Any) -> Any:
    """``kind`` with :class:`_Fp32WhereSmall` before it; a class, as copies of a module keep that."""
    return type(kind.__name__, (_Fp32WhereSmall, kind), {})
