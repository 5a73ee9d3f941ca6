"""Normalisation, addition and activation as one operation: y = leaky_relu(w · (x - m) · s + b + r, slope).

m and s = 1 / sqrt(variance + eps) are of each channel over each of ``groups`` contiguous parts of the batch: one group
is BatchNorm, a group for each sample InstanceNorm. Maps keep their layout. With n values, z the normalised map and dz
the gradient before the activation:

    dx = w · s · (dz - Σ dz / n - z · Σ dz z / n)     dw = Σ dz z     db = Σ dz     dr = dz

torch has an operation for each of these, whose maps a GPU writes and reads again, its InstanceNorm knows one layout,
and its kernels give a channel of a volume to one of a GPU's processors. So GPUs run kernels of ours
(``norm_act_triton.py``), which :func:`usable` tries first, and all else torch's operations. Tensors without memory,
by which a run is planned, run the formulas of ``norm_act_formulas.py``, so that the planner counts what a GPU would be
given.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from dira_scale.base.machine.kernels import work

NARROW = (torch.float32, torch.bfloat16, torch.float16)
_plain = False


@contextmanager
def plain() -> Iterator[None]:
    """A context in which torch's own operations are used everywhere."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def fuses(x: Tensor, residual: Tensor | None = None) -> bool:
    """Return whether :class:`NormAct` can fuse a map ``x`` [b, C, *size] and the ``residual`` that is added to it."""
    if _plain or x.dim() < 4 or x.shape[2:].numel() == 1 or not x.numel() or x.dtype not in NARROW:
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    fits = residual is None or (residual.dtype == x.dtype and residual.shape == x.shape)
    return fits and (isinstance(x, FakeTensor) or (x.is_cuda and usable(x.device)))


def norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    groups: int = 1,
    slope: float = 1.0,
    residual: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return leaky_relu(w · (x - m) · s + b + residual, slope) [b, C, *size], in the type of ``x``.

    Args:
        weight, bias: [C]; None: 1 and 0.
        groups: of ``len(x) / groups`` samples each, whose statistics count.
        slope: of negative values, at least 0; 1: no activation.
        residual: of the shape of ``x``.

    Raises ``ValueError`` for a weight without a bias, or groups that do not divide the batch.
    """
    if (weight is None) != (bias is None) or len(x) % groups:
        raise ValueError(f"norm_act: weight and bias, or neither; and {groups} equal groups of {len(x)} samples")
    if fuses(x, residual):
        return NormAct.apply(x, weight, bias, residual, groups, slope, eps)
    return _by_torch(x, weight, bias, groups, slope, residual, eps)


def _by_torch(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, slope: float, residual: Tensor | None,
    eps: float,
) -> Tensor:  # fmt: skip
    if groups == len(x):
        y = F.instance_norm(x, weight=weight, bias=bias, eps=eps)
    else:
        parts = x.chunk(groups)
        y = torch.cat([F.batch_norm(part, None, None, weight, bias, training=True, eps=eps) for part in parts])
    y = y if residual is None else y + residual
    return y if slope == 1 else F.leaky_relu(y, slope)


def slope_of(act: nn.Module) -> float | None:
    """The slope of negative values by which ``act`` is a LeakyReLU, 1 of none at all; None of another activation."""
    if isinstance(act, nn.LeakyReLU):
        return float(act.negative_slope)
    return {nn.ReLU: 0.0, nn.Identity: 1.0}.get(type(act))


class InstanceNormAct(nn.modules.instancenorm._InstanceNorm):
    """InstanceNorm [b, C, *size], the addition that may follow it, and a LeakyReLU of ``slope``; 1: no activation."""

    def __init__(self, channels: int, slope: float = 1.0, affine: bool = True) -> None:
        super().__init__(channels, affine=affine)
        self.slope = slope
        self.act = nn.Identity() if slope == 1 else nn.LeakyReLU(slope)  # for what takes this layer's place (sparse.py)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        about: Any = {"groups": len(x), "slope": self.slope, "eps": self.eps}
        return norm_act(x, self.weight, self.bias, residual=residual, **about)

    def extra_repr(self) -> str:
        return f"{self.num_features}, slope={self.slope}, affine={self.affine}"


class NormAct(torch.autograd.Function):
    """:func:`norm_act` by kernels, differentiable once. If ``pending`` [2 C or more] is given, for running statistics,
    the groups' average means and unbiased variances are added to it, and 1 to its other elements. If ``constant``
    means and variances [G, 2, C] are given, they replace those of the map."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, groups: int,
        slope: float, eps: float, pending: Tensor | None = None, constant: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        kernels, layout = _kernels(x), torch.contiguous_format
        if not x.is_contiguous():
            layout = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
            if not x.is_contiguous(memory_format=layout):
                layout = torch._prims_common.suggest_memory_format(x)
        x = x.contiguous(memory_format=layout)
        stats = kernels.norm_act_stats(x, groups, pending) if constant is None else constant
        added = None if residual is None else residual.contiguous(memory_format=layout)
        y: Tensor = kernels.norm_act_apply(x, stats, weight, bias, added, slope, eps)
        # Where something was added, only the result tells which values were negative. By constants it suffices.
        by_result = (added is not None and slope != 1) or constant is not None
        ctx.save_for_backward(x if constant is None else None, y if by_result else None, stats, weight, bias)
        ctx.about = layout, slope, eps, added is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, y, *about = ctx.saved_tensors
        layout, slope, eps, added = ctx.about
        constant, x = x is None, y if x is None else x
        kernels, dy = _kernels(x), dy.contiguous(memory_format=layout)
        dz = None if y is None else torch.empty_like(x)
        sums = kernels.norm_act_sums(dy, x, y, dz, *about, slope, eps)
        if dz is None:
            dz, left = dy, slope
        else:
            left = 1.0
        own = ctx.needs_input_grad[0] and not constant
        dx = kernels.norm_act_gradient(dz, x, *about, sums, left, eps) if own else dz
        dbias = dweight = None
        if (weight := about[1]) is not None:
            over_groups = sums.view(2, -1) if sums.shape[0] == 1 else sums.sum(0)
            dbias, dweight = over_groups.to(weight.dtype).unbind()
        return dx, dweight, dbias, dz if added else None, *[None] * 5


def bias_act(x: Tensor, bias: Tensor, slope: float) -> Tensor:
    """Return leaky_relu(x + bias, slope) of a map [b, C, *size] that :func:`fuses`, with ``slope`` > 0: by the kernels,
    in one pass forward and one backward, as a normalisation whose mean is 0 and variance 1."""
    ones = torch.ones_like(bias)
    constant = torch.stack([torch.zeros_like(bias), ones])[None].to(torch.promote_types(x.dtype, torch.float32))
    y: Tensor = NormAct.apply(x, ones, bias, None, 1, slope, 0.0, None, constant)
    return y


def _kernels(x: Tensor) -> Any:
    if x.is_cuda:
        from dira_scale.train.models import norm_act_triton  # Triton comes with torch's builds for GPUs

        return norm_act_triton
    from dira_scale.train.models import norm_act_formulas  # noqa: F401  # registers them

    return torch.ops.dira_scale


@cache
def usable(device: torch.device) -> bool:
    """Return whether the kernels work on ``device``."""
    return work("normalisation", device, lambda: _compared(device))


def _compared(device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield results and gradients of the kernels with torch's, of maps in both layouts, of 32 and 16 bits."""
    drawn = torch.randn(3, 4, 24, 70, 33, generator=torch.Generator().manual_seed(0)).to(device)
    weight, bias = (torch.linspace(0.5, 2, 24, device=device).requires_grad_() for _ in range(2))
    for layout in (torch.contiguous_format, torch.channels_last):
        for dtype in 2 * (torch.float32, torch.bfloat16):  # the second time by what is kept of the first
            x, residual, dy = (values.to(dtype).float().contiguous(memory_format=layout) for values in drawn)
            inputs = x.requires_grad_(), weight, bias, residual.requires_grad_()
            ours: Tensor = NormAct.apply(x.to(dtype), weight, bias, residual.to(dtype), 2, 0.1, 1e-5)
            right = _by_torch(x, weight, bias, 2, 0.1, residual, 1e-5)
            ends = [(y, *torch.autograd.grad(y, inputs, dy.to(y.dtype))) for y in (ours, right)]
            ours, right = bias_act(x.to(dtype), bias, 0.1), F.leaky_relu(x + bias[:, None, None], 0.1)
            more = [(y, *torch.autograd.grad(y, (x, bias), dy.to(y.dtype))) for y in (ours, right)]
            pairs = zip(ends[0] + more[0], ends[1] + more[1], strict=True)
            yield from ((a.detach().to(dtype), b.detach().to(dtype)) for a, b in pairs)
