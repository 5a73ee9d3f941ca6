"""BatchNorm of one group that spans processes, as the operation of torch's SyncBatchNorm.

A forward pass gathers 2·C statistics, a backward pass sums 2·C; the input is saved in its own type, never in fp32.
A GPU runs SyncBatchNorm's kernels. Elsewhere their formulas, under the same names and signatures, are one operation
each, so that the planner counts what a GPU would be given. With n values of a channel over all processes:

    y = w · (x - m) · s + b                   m: mean, s = 1 / sqrt(variance + eps)
    dx = w · s · (dy - Σ dy / n - (x - m) · s² · Σ dy (x - m) / n)
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from dira_scale.train.distributed.collectives import gather


class BatchNormOverRanks(torch.autograd.Function):
    """Normalise ``x`` [b, C, ...] over all processes of a group, which hold equally many; differentiable once.

    ``mean``, ``var`` [C], of the statistics' type, are written: the mean and the unbiased variance.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float, group: Any
    ) -> Tensor:
        kernels = _kernels(x)
        x = x.contiguous(memory_format=torch._prims_common.suggest_memory_format(x))
        statistics = torch.stack(kernels.batch_norm_stats(x, eps))
        means, scales = gather(statistics[None], group).unbind(1)
        count = x.numel() // x.shape[1]
        # With momentum 1, running statistics become the batch's.
        together, scale = kernels.batch_norm_gather_stats(x, means, scales, mean, var, 1.0, eps, count)
        ctx.save_for_backward(x, weight, together, scale)
        ctx.group, ctx.counts = group, (len(means), count)
        return kernels.batch_norm_elemt(x, weight, bias, together, scale, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        kernels = _kernels(x)
        dy = dy.contiguous(memory_format=torch._prims_common.suggest_memory_format(x))
        sum_dy, sum_dy_xmu, dweight, dbias = kernels.batch_norm_backward_reduce(
            dy, x, mean, scale, weight, True, True, True
        )
        sums = torch.stack([sum_dy, sum_dy_xmu])
        dist.all_reduce(sums, group=ctx.group)
        ranks, count = ctx.counts
        counts = x.new_full((ranks,), count, dtype=torch.int32)
        dx = kernels.batch_norm_backward_elemt(dy, x, mean, scale, weight, *sums.unbind(), counts)
        return dx, dweight, dbias, None, None, None, None


def _kernels(x: Tensor) -> Any:
    return torch if x.is_cuda else torch.ops.dira_scale


def _channels(values: Tensor, x: Tensor) -> Tensor:
    """``values`` [C] as they are broadcast to ``x`` [b, C, ...]."""
    return values.view(-1, *[1] * (x.dim() - 2))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.dim()) if axis != 1]


@torch.library.custom_op("dira_scale::batch_norm_stats", mutates_args=())
def batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return each channel's mean and 1 / sqrt(variance + eps)."""
    var, mean = torch.var_mean(_wide(x), dim=_axes(x), correction=0)
    return mean, torch.rsqrt(var + eps)


@torch.library.custom_op("dira_scale::batch_norm_gather_stats", mutates_args=("running_mean", "running_var"))
def batch_norm_gather_stats(
    x: Tensor, mean: Tensor, invstd: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float,
    count: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Combine the statistics [W, C] of ``count`` values each (Chan et al.), and note them."""
    total = mean.mean(0)
    var = (invstd.pow(-2) - eps + (mean - total).square()).mean(0)
    count *= len(mean)
    running_mean.lerp_(total.to(running_mean.dtype), momentum)
    running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
    return total, torch.rsqrt(var + eps)


@torch.library.custom_op("dira_scale::batch_norm_elemt", mutates_args=())
def batch_norm_elemt(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, invstd: Tensor, eps: float) -> Tensor:
    """Return the normalised ``x``, in its type and layout."""
    scale = invstd * weight
    return torch.addcmul(_channels(bias - mean * scale, x), _wide(x), _channels(scale, x)).to(x.dtype)


@torch.library.custom_op("dira_scale::batch_norm_backward_reduce", mutates_args=())
def batch_norm_backward_reduce(
    grad: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor, input_g: bool, weight_g: bool, bias_g: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return, by channel, the sums of dy and dy · (x - mean), and the gradients of weight and bias."""
    dy = _wide(grad)
    sum_dy = dy.sum(_axes(x))
    sum_dy_xmu = (dy * (_wide(x) - _channels(mean, x))).sum(_axes(x))
    return sum_dy, sum_dy_xmu, (sum_dy_xmu * invstd).to(weight.dtype), sum_dy.to(weight.dtype, copy=True)


@torch.library.custom_op("dira_scale::batch_norm_backward_elemt", mutates_args=())
def batch_norm_backward_elemt(
    grad: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor, sum_dy: Tensor, sum_dy_xmu: Tensor,
    counts: Tensor,
) -> Tensor:  # fmt: skip
    """Return the gradient of ``x``."""
    count = counts.sum()
    along = (_wide(x) - _channels(mean, x)) * _channels(invstd.square() * sum_dy_xmu / count, x)
    dx = (_wide(grad) - _channels(sum_dy / count, x) - along) * _channels(weight * invstd, x)
    return dx.to(x.dtype)


@batch_norm_stats.register_fake
def _(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    mean = x.new_empty(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    return mean, torch.empty_like(mean)


@batch_norm_gather_stats.register_fake
def _(x: Tensor, mean: Tensor, invstd: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return mean.new_empty(mean.shape[1]), mean.new_empty(mean.shape[1])


@batch_norm_elemt.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


@batch_norm_backward_reduce.register_fake
def _(grad: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(like) for like in (mean, mean, weight, weight))


@batch_norm_backward_elemt.register_fake
def _(grad: Tensor, x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)
