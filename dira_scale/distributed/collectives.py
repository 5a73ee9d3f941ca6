"""The collectives that models and methods use. All of them also work on a single process."""

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
    """Set the timeout of process groups created from now on."""
    global _timeout
    _timeout = timeout


def new_group(ranks: Sequence[int] | None = None, backend: str | None = None) -> Any:
    """``torch.distributed.new_group`` with the timeout of :func:`set_timeout`."""
    return dist.new_group(ranks, timeout=_timeout, backend=backend)


@cache
def control_group() -> Any:
    """A gloo group, whatever backend the tensors use: control messages never wait for a device."""
    return None if dist.get_backend() == "gloo" else new_group(backend="gloo")  # None: the default group


def gather(x: Tensor, group: Any = None) -> Tensor:
    """Concatenate ``x`` [b, ...] of every process of ``group`` to [W·b, ...], in rank order.

    Differentiable: the gradient of a process's own part is the sum over all processes' gradients, so with gradients
    averaged over ranks the result equals that of one process with the whole batch.
    """
    if world() == 1:
        return x
    return _Gather.apply(x, group)


def reduce_sum(x: Tensor, group: Any = None) -> Tensor:
    """Differentiable sum of ``x`` over the processes, for when all of them compute the same from the sum.

    All of them then have the same gradient, so its sum over processes is one's own times their number: no second
    collective. With gradients averaged over ranks the result equals that of one process with the whole batch.
    """
    if world() == 1:
        return x
    total: Tensor = _Sum.apply(x, group)
    return total


def reduce_mean(x: Tensor, group: Any = None) -> Tensor:
    """Mean of ``x`` over the processes, without gradient; ``x`` is not modified."""
    if world() == 1:
        return x.detach()
    total = x.detach().clone()
    dist.all_reduce(total, group=group)
    return total / dist.get_world_size(group)


@torch.no_grad()
def exchange(x: Tensor, order: IntArray) -> Tensor:
    """This process's part of ``gather(x)[order]``, without gradient; each row is sent only to where it is needed.

    So a process receives as much as it sends, however many processes there are; ``gather`` would bring it everything.

    Args:
        x: [b, ...] of every process.
        order: the same permutation [W·b] on all of them.
    """
    if world() == 1:
        return x[on_device(order, x.device)]
    mine = slice(rank() * len(x), (rank() + 1) * len(x))
    targets, sources = np.argsort(order)[mine], order[mine]  # where this process's rows go, and which it receives
    sends, receives = (np.bincount(rows // len(x), minlength=world()).tolist() for rows in (targets, sources))
    # Sent rows are sorted by target row, received ones by sender.
    sent = x[on_device(np.argsort(targets), x.device)].contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, receives, sends)
    out = torch.empty_like(received)
    out[on_device(np.argsort(sources // len(x), kind="stable"), x.device)] = received
    return out


def on_device(order: IntArray, device: torch.device) -> Tensor:
    """Row numbers as an index on ``device``, without the host synchronisation of ``torch.tensor(order)``."""
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
