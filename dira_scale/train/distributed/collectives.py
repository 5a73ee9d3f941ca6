"""The collectives that models and methods use. All of them also work on a single process."""

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from dira_scale.base.machine.graphs import launch

IntArray = npt.NDArray[np.int64]

# Into and from one tensor, not a list of W. torch 2.13 has renamed them.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 to ``world() - 1``."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


_timeout: timedelta | None = None  # None: torch's, half an hour


def set_timeout(timeout: timedelta) -> None:
    """Set the timeout of process groups created from now on."""
    global _timeout
    _timeout = timeout


def new_group(name: str, ranks: Sequence[int] | None = None, backend: str | None = None, among: bool = False) -> Any:
    """``torch.distributed.new_group`` with the timeout of :func:`set_timeout`; ``name`` is what records call it.
    ``among``: only its members call this."""
    settings: Any = {"backend": backend, "use_local_synchronization": among, "group_desc": name}
    return dist.new_group(ranks, timeout=_timeout, **settings)


@cache
def control_group() -> Any:
    """A gloo group, whatever backend the tensors use: control messages never wait for a device."""
    return None if dist.get_backend() == "gloo" else new_group("control", backend="gloo")  # None: the default group


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
    return _Sum.apply(x, group)


def reduce_mean(x: Tensor, group: Any = None) -> Tensor:
    """Mean of ``x`` over the processes, without gradient; ``x`` is not modified."""
    if world() == 1:
        return x.detach()
    total = x.detach().clone()
    launch(lambda: dist.all_reduce(total, group=group))
    return total / dist.get_world_size(group)


def on_device(order: IntArray, device: torch.device) -> Tensor:
    """Row numbers as an index on ``device``, without the host synchronisation of ``torch.tensor(order)``."""
    return torch.from_numpy(order).to(device, non_blocking=True)


class Gathering:
    """A :func:`gather` that has been started, without gradient: what follows computes meanwhile.

    Every process starts its gatherings in the same order.
    """

    def __init__(self, x: Tensor) -> None:
        self._own, self._work = x.detach().contiguous(), cast(Any, None)
        if world() > 1:
            self._all = x.new_empty(world() * len(x), *x.shape[1:])
            launch(self._send)

    def _send(self) -> None:
        self._work = _all_gather(self._all, self._own, async_op=True)

    def wait(self) -> Tensor:
        """[W·b, ...] in rank order. On a GPU its stream waits, not the host."""
        if world() == 1:
            return self._own
        launch(lambda: self._work.wait())
        return self._all


class Exchange:
    """Rows of all processes' tensors in another order: the call is this process's part of ``gather(x)[order]``.

    Each row is sent only to where it is needed, so a process receives as much as it sends, however many processes there
    are; rows that stay on their process, on all processes, are not sent at all. Without gradient.

    Args:
        order: the same permutation [W·b] on all processes.
        device: of what is exchanged.
    """

    def __init__(self, order: IntArray, device: torch.device) -> None:
        rows = len(order) // world()
        own = slice(rank() * rows, (rank() + 1) * rows)
        self.local = bool(np.array_equal(order // rows, np.arange(len(order)) // rows))
        # Where this process's rows go, and which it receives. Sent rows are sorted by their target, received ones by
        # their sender.
        targets, sources = np.argsort(order)[own], order[own]
        leaving = sources - own.start if self.local else np.argsort(targets)
        arriving = np.argsort(sources // rows, kind="stable")
        self._sends, self._receives = (np.bincount(x // rows, minlength=world()).tolist() for x in (targets, sources))
        indices = (leaving, np.argsort(leaving), arriving, np.argsort(arriving))
        self._leaving, self._left, self._arriving, self._arrived = (on_device(index, device) for index in indices)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Row i of the result, counted over all processes, is row ``order[i]`` of ``x`` [b, ...]."""
        if self.local:
            return x[self._leaving]
        return _all_to_all(x[self._leaving], self._receives, self._sends)[self._arrived]

    @torch.no_grad()
    def back(self, x: Tensor) -> Tensor:
        """The inverse: rows of the new order return to where they came from."""
        if self.local:
            return x[self._left]
        return _all_to_all(x[self._arriving], self._sends, self._receives)[self._left]


def _all_to_all(x: Tensor, receives: list[int], sends: list[int]) -> Tensor:
    received, sent = torch.empty_like(x, memory_format=torch.contiguous_format), x.contiguous()
    launch(lambda: dist.all_to_all_single(received, sent, receives, sends))
    return received


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.world = dist.get_world_size(group)
        total = x.detach().clone(memory_format=torch.contiguous_format)
        launch(lambda: dist.all_reduce(total, group=group))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.world, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group, ctx.shape = group, x.shape
        gathered = x.new_empty(dist.get_world_size(group) * len(x), *x.shape[1:])
        sent = x.contiguous()
        launch(lambda: _all_gather(gathered, sent, group=group))
        return gathered

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Scatter.apply(grads[0], ctx.group, ctx.shape), None


class _Scatter(torch.autograd.Function):
    """The transpose of ``_Gather``, a function of its own so that gradients are differentiable, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any, shape: torch.Size) -> Tensor:
        ctx.group = group
        summed = x.new_empty(shape)
        sent = x.contiguous()
        launch(lambda: _reduce_scatter(summed, sent, group=group))
        return summed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(grads[0], ctx.group), None, None
