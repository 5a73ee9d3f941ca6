"""The collectives that models and methods use. All work unchanged on one process."""

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

IntArray = npt.NDArray[np.int64]


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 to ``world() - 1``."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


_timeout: timedelta | None = None  # None: torch's, half an hour


def set_timeout(timeout: timedelta) -> None:
    """How long groups made from now on wait for a process."""
    global _timeout
    _timeout = timeout


def new_group(ranks: Sequence[int] | None = None, backend: str | None = None) -> Any:
    """``torch.distributed.new_group`` with the timeout of :func:`set_timeout`."""
    return dist.new_group(ranks, timeout=_timeout, backend=backend)


@cache
def control() -> Any:
    """A group over gloo, whatever the tensors go over: what the processes tell each other waits for no device."""
    return None if dist.get_backend() == "gloo" else new_group(backend="gloo")  # None: the default group


def gather(x: Tensor, group: Any = None) -> Tensor:
    """Concatenate ``x`` [b, ...] of every process of ``group`` to [W·b, ...], in rank order.

    Differentiable: the gradient of a process's own part is the sum of what all processes sent back, so that with
    gradients averaged over ranks the result equals one process that sees the whole batch.
    """
    if world() == 1:
        return x
    return _Gather.apply(x, group)


def reduce_sum(x: Tensor, group: Any = None) -> Tensor:
    """Sum of ``x`` over the processes, differentiable, where all of them go on to compute the same from the sum.

    Then all send the same gradient back, and a process's own, times their number, is the sum that ``x`` is owed: no
    second collective. With gradients averaged over ranks the result equals one process that sees the whole batch.
    """
    if world() == 1:
        return x
    total: Tensor = _Sum.apply(x, group)
    return total


def reduce_mean(x: Tensor, group: Any = None) -> Tensor:
    """Mean of ``x`` over the processes, without gradient; ``x`` itself is left alone."""
    if world() == 1:
        return x.detach()
    total = x.detach().clone()
    dist.all_reduce(total, group=group)
    return total / dist.get_world_size(group)


@torch.no_grad()
def exchange(x: Tensor, order: IntArray) -> Tensor:
    """This process's part of ``gather(x)[order]``, without gradient; each row goes straight to where it is wanted.

    So a process receives as much as it gives, however many there are, where ``gather`` would bring it everything.

    Args:
        x: [b, ...] of every process.
        order: the same permutation [W·b] on all of them.
    """
    if world() == 1:
        return x[on_device(order, x.device)]
    own = slice(rank() * len(x), (rank() + 1) * len(x))
    to, wanted = np.argsort(order)[own], order[own]  # where this process's rows go, and which come
    sends, receives = (np.bincount(rows // len(x), minlength=world()).tolist() for rows in (to, wanted))
    # By receiver, as the receiver wants them; what comes is by sender.
    parcel = x[on_device(np.argsort(to), x.device)].contiguous()
    got = torch.empty_like(parcel)
    dist.all_to_all_single(got, parcel, receives, sends)
    out = torch.empty_like(got)
    out[on_device(np.argsort(wanted // len(x), kind="stable"), x.device)] = got
    return out


def on_device(order: IntArray, device: torch.device) -> Tensor:
    """Row numbers as an index on ``device``; the host does not wait for it, as it would for ``torch.tensor(order)``."""
    return torch.from_numpy(order).to(device, non_blocking=True)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.world = dist.get_world_size(group)
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.world, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group, ctx.length = group, x.shape[0]
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        start = dist.get_rank(ctx.group) * ctx.length
        return total[start : start + ctx.length], None
