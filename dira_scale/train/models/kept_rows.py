"""A residual branch of those samples of a batch that are kept: their rows of x += gamma / share · branch(norm(x)).

torch gathers the rows, normalises and casts what it gathered, multiplies in 32 bits what the branch returns and adds it
to a copy of x, and as much backward. On GPUs kernels of ours (``kept_rows_triton.py``), which :func:`usable` tries
first, pass over the rows once before the branch and once after it, and likewise backward. Tensors without memory, by
which a run is planned, count as kernels.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch
from timm.layers import LayerNorm
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from dira_scale.base.machine.kernels import work

PROGRAMS = 1024  # among which sums over rows are divided; on any GPU, so that they are the same
Branch = Callable[[Tensor], Tensor]


def added(
    x: Tensor, norm: Any, branch: Branch, gamma: Tensor | None, order: Tensor, kept: int, own: bool = False,
    fused: bool | None = None,
) -> Tensor:  # fmt: skip
    """Return ``x`` [b, ..., dim] with ``gamma`` [dim] · G / ``kept`` · branch(norm(...)) added to some of its samples.

    Args:
        order: [b / G, G], the samples by groups; the first ``kept`` of each are computed.
        own: no one else holds the result's gradient, so that kernels may overwrite it.
        fused: by kernels; None: where :func:`fuses` finds them.
    """
    if gamma is not None:
        x = x.to(torch.promote_types(x.dtype, gamma.dtype))
    if fuses(x, norm) if fused is None else fused:
        kind = x.device.type  # what follows a norm casts to autocast's type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        x, y = _Norm.apply(x.contiguous(), norm.weight, norm.bias, order, kept, norm.eps, dtype, own)
        return _Add.apply(x, branch(y).contiguous(), x.new_ones(x.shape[-1]) if gamma is None else gamma, order, kept)
    rows, share = order[:, :kept].flatten(), order.shape[1] / kept
    x, taken = _Take.apply(x, rows)
    return _Put.apply(x, branch(norm(taken)), rows, x.new_full((1,), share) if gamma is None else gamma * share)


def fuses(x: Tensor, norm: Any) -> bool:
    """Return whether kernels can compute ``norm`` of ``x``, and what follows its branch."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(norm) not in (nn.LayerNorm, LayerNorm):
        return False
    if isinstance(x, FakeTensor) or (x.is_cuda and usable(x.device)):
        return norm.bias is not None and norm.weight.shape == x.shape[-1:]
    return False


class _Norm(torch.autograd.Function):
    """``x``, and the LayerNorm of its rows that are kept, in ``dtype``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, order: Tensor, kept: int, eps: float, dtype: Any, own: bool
    ) -> tuple[Tensor, Tensor]:
        y = x.new_empty(len(order) * kept, *x.shape[1:], dtype=dtype)
        _run("normed", (x, order, weight, bias), (y,), kept, eps=eps)
        ctx.save_for_backward(x, weight, order)
        ctx.about = kept, eps, own
        return x.view_as(x), y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight, order), (kept, eps, own) = ctx.saved_tensors, ctx.about
        dx, parts = dx.contiguous(), _parts(x, 2)
        out = dx if own else torch.empty_like(dx)
        _run("norm_differentiated", (dx, order, dy.contiguous(), x, weight), (out, parts), kept, not own, eps)
        return out, *parts.sum(0).to(weight.dtype), *5 * (None,)


class _Add(torch.autograd.Function):
    """``x``, to whose rows that are kept is added ``gamma`` · ``y`` over the share of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, gamma: Tensor, order: Tensor, kept: int) -> Tensor:
        _run("added", (x, order, y, gamma), (out := torch.empty_like(x),), kept, True)
        ctx.save_for_backward(y, gamma, order)
        ctx.kept = kept
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor | None, ...]:
        y, gamma, order = ctx.saved_tensors
        dx, dy, parts = dx.contiguous(), torch.empty_like(y), _parts(dx, 1)
        _run("add_differentiated", (dx, order, y, gamma), (dy, parts), ctx.kept)
        return dx, dy, parts.sum((0, 1)).to(gamma.dtype), None, None


def _parts(x: Tensor, sums: int) -> Tensor:
    """Memory for sums over rows, of each program."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty(min(PROGRAMS, x[..., 0].numel()), sums, x.shape[-1], dtype=dtype)


def _run(
    name: str, read: Sequence[Tensor], written: Sequence[Tensor], kept: int, everything: bool = False, eps: float = 0.0
) -> None:
    """Run a kernel on the tokens of samples that are ``kept``, or on ``everything``, which is copied. The first that is
    ``read`` is a map of all samples, then comes their order; what is ``written`` after the first are sums."""
    if isinstance(read[0], FakeTensor):
        _counted(name, read, written, kept, everything, eps)
        return
    from dira_scale.train.models.kept_rows_triton import launch  # Triton comes with torch's builds for GPUs

    kinds, programs = [each.dtype for each in (*read, *written)], [len(parts) for parts in written[1:]]
    about = read[0].shape, read[0].device, read[1].shape[1], kept, everything, eps
    launch(name, *about, *programs or [0], *kinds)(*read, *written)


_counted = torch.library.custom_op("dira_scale::kept_rows", _run, mutates_args=("written",))


class _Take(torch.autograd.Function):
    """``x`` and its ``rows``, no row twice: one pass over the gradient, not three."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(rows)
        return x.view_as(x), x.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor, dtaken: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return dx.index_add(0, rows, dtaken), None


class _Put(torch.autograd.Function):
    """``x``, to whose ``rows`` are added ``scale`` · ``y``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, rows: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(y, rows, scale)
        return x.index_add(0, rows, (y * scale).to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor | None, ...]:
        y, rows, scale = ctx.saved_tensors
        taken = dx.index_select(0, rows)
        dy = torch.mul(taken, scale, out=torch.empty_like(y))
        dscale = taken.mul_(y).flatten(0, -2).sum(0).to(scale.dtype) if ctx.needs_input_grad[3] else None
        return dx, dy, None, dscale


@cache
def usable(device: torch.device) -> bool:
    """Return whether the kernels work on ``device``."""
    return work("drop path", device, lambda: _compared(device))


def _compared(device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield results and gradients of the kernels with torch's, of 32 bits and with a branch of 16."""
    generator, norm = torch.Generator().manual_seed(0), LayerNorm(72, device=device)
    drawn, dy = torch.randn(2, 32, 5, 72, generator=generator).to(device)
    order = torch.rand(2, 16, generator=generator).argsort().add(torch.tensor([[0], [16]])).to(device)
    gamma = torch.linspace(0.5, 2, 72, device=device).requires_grad_()
    for dtype in 2 * (torch.float32, torch.bfloat16):  # the second time by what is kept of the first
        ends = []
        for fused in (True, False):
            x = drawn.clone().requires_grad_()
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype != torch.float32):
                y = added(x, norm, partial(Tensor.to, dtype=dtype), gamma, order, 11, dtype != torch.float32, fused)
            ends.append([y, *torch.autograd.grad(y, (x, gamma, norm.weight, norm.bias), dy.clone())])
        yield from ((a.detach().to(dtype), b.detach().to(dtype)) for a, b in zip(*ends, strict=True))
