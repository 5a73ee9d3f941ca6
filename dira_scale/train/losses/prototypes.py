"""Softmaxes of a teacher over many prototypes, their sums and the cross-entropy with them, without their matrix.

Logits [n, K] are of 16 bits where a head writes such: for 14,000 patches and 65,536 prototypes 1.8 GB, and each copy in
float32 is twice that. So probabilities are computed anew from logits wherever they are read: on GPUs by kernels of ours
(``prototypes_triton.py``), which :func:`usable` tries first, else by torch's operations, some rows at a time. Tensors
without memory, by which a run is planned, count as kernels.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dira_scale.base.machine.kernels import work
from dira_scale.train.losses.float32 import at_least_float32

VALUES = 2**22  # of float32 that are computed at a time


class Targets:
    """softmax(``logits`` / ``temperature`` + ``columns``) of each row, without gradient: [n, K] and [K].

    Example:
        >>> Targets(torch.tensor([[1.0, 3.0]]), 2.0, torch.tensor([1.0, 0.0])).probabilities()
        tensor([[0.5000, 0.5000]])
    """

    def __init__(self, logits: Tensor, temperature: float | Tensor, columns: Tensor) -> None:
        self.logits, self.temperature = logits.detach().contiguous(), temperature_of(temperature, logits.device)
        self.columns = columns.detach().to(torch.promote_types(columns.dtype, at_least_float32(logits[:0]).dtype))

    @torch.no_grad()
    def probabilities(self) -> Tensor:
        """All of them, [n, K] in float32 or wider."""
        return _scaled(self.logits, self.temperature, self.columns).softmax(1)

    def sums(self, weights: Tensor | None, normalised: bool = True) -> Tensor:
        """The sums of rows times ``weights`` [n]: [K]; not ``normalised``: of the exponentials alone."""
        ops = _ops(self.logits)
        return ops.prototype_sums(self.logits, self.temperature, self.columns, weights, normalised)


class CrossEntropy(torch.autograd.Function):
    """-sum_k t_k log softmax(s / temperature)_k of each row [n] of ``student`` s [n, K] and ``targets`` t."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, temperature: float, targets: Targets) -> Tensor:
        student, *teacher = student.contiguous(), targets.logits, targets.columns, targets.temperature
        ctx.temperature = temperature
        losses, norms = _ops(student).prototype_losses(student, *teacher, temperature)
        ctx.save_for_backward(student, *teacher, norms)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ops = _ops(gradient)
        return ops.prototype_gradient(gradient.contiguous(), *ctx.saved_tensors, ctx.temperature), None, None


@torch.library.custom_op("dira_scale::prototype_sums", mutates_args=())
def prototype_sums(
    logits: Tensor, temperature: Tensor, columns: Tensor, weights: Tensor | None, normalised: bool
) -> Tensor:
    """See :meth:`Targets.sums`."""
    total = torch.zeros_like(columns)
    for rows in _parts(logits):
        x = _scaled(logits[rows], temperature, columns)
        x = x.softmax(1) if normalised else x.exp_()
        total += (x if weights is None else x.mul_(weights[rows, None])).sum(0)
    return total


@torch.library.custom_op("dira_scale::prototype_losses", mutates_args=())
def prototype_losses(
    student: Tensor, logits: Tensor, columns: Tensor, teacher_temperature: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The cross-entropies [n], and what softmaxes subtract from the student's rows and the teacher's [2, n]."""
    losses, norms = columns.new_empty(len(student)), columns.new_empty(2, len(student))
    for rows in _parts(student):
        x, y = _scaled(student[rows], temperature), _scaled(logits[rows], teacher_temperature, columns)
        logs, t = x.log_softmax(1), y.softmax(1)
        norms[0, rows], norms[1, rows] = x[:, 0] - logs[:, 0], y.amax(1) - t.amax(1).log()
        losses[rows] = -t.mul_(logs).sum(1)
    return losses, norms


@torch.library.custom_op("dira_scale::prototype_gradient", mutates_args=())
def prototype_gradient(
    gradient: Tensor, student: Tensor, logits: Tensor, columns: Tensor, teacher_temperature: Tensor, norms: Tensor,
    temperature: float,
) -> Tensor:  # fmt: skip
    """The gradient of the student's logits [n, K] by that of the losses [n], in their type."""
    result = torch.empty_like(student)
    for rows in _parts(student):  # by softmaxes anew: torch's is faster than exponentials less ``norms``
        x = _scaled(student[rows], temperature).softmax(1)
        x -= _scaled(logits[rows], teacher_temperature, columns).softmax(1)
        result[rows] = x.mul_(gradient[rows, None] / temperature)
    return result


@prototype_sums.register_fake
def _(logits: Tensor, temperature: Tensor, columns: Tensor, weights: Tensor | None, normalised: bool) -> Tensor:
    return torch.empty_like(columns)


@prototype_losses.register_fake
def _(
    student: Tensor, logits: Tensor, columns: Tensor, teacher_temperature: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    return columns.new_empty(len(student)), columns.new_empty(2, len(student))


@prototype_gradient.register_fake
def _(gradient: Tensor, student: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(student)


def _parts(x: Tensor) -> Iterator[slice]:
    step = max(1, VALUES // x.shape[1])
    return (slice(start, start + step) for start in range(0, len(x), step))


def temperature_of(value: float | Tensor, device: torch.device) -> Tensor:
    return value if isinstance(value, Tensor) else torch.full((), value, dtype=torch.float64, device=device)


def _scaled(logits: Tensor, temperature: float | Tensor, columns: Tensor | None = None) -> Tensor:
    x = at_least_float32(logits) / temperature
    return x if columns is None else x.add_(columns)


def _ops(x: Tensor) -> Any:
    if not (x.is_cuda and usable(x.device)):
        return torch.ops.dira_scale
    from dira_scale.train.losses import prototypes_triton  # Triton comes with torch's builds for GPUs

    return prototypes_triton


@cache
def usable(device: torch.device) -> bool:
    """Return whether the kernels work on ``device``."""
    return work("prototypes", device, lambda: _compared(device))


def _compared(device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what the kernels give with what torch's operations give."""
    from dira_scale.train.losses import prototypes_triton

    generator = torch.Generator().manual_seed(0)
    student, logits = torch.randn(2, 70, 5000, generator=generator).to(device, torch.bfloat16)
    columns, weights, teacher = logits[0].float(), logits[:, 0].float().abs(), temperature_of(0.8, device)
    results = []
    for ops in (prototypes_triton, torch.ops.dira_scale):
        losses, norms = ops.prototype_losses(student, logits, columns, teacher, 0.5)
        sums = [ops.prototype_sums(logits, teacher, columns, weights, whether) for whether in (False, True)]
        dx = ops.prototype_gradient(weights, student.float(), logits, columns, teacher, norms, 0.5)
        results.append([losses, norms, *sums, dx])
    yield from zip(*results, strict=True)
