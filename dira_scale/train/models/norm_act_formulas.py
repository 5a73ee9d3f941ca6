"""The operations of ``norm_act.py`` by formula, on any device: what the planner counts, and what tests compare with.

G groups of the batch, C channels; z is the normalised map, dz the gradient before the activation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.library.custom_op("dira_scale::norm_act_stats", mutates_args=("pending",))
def norm_act_stats(x: Tensor, groups: int, pending: Tensor | None) -> Tensor:
    """Return mean and biased variance [G, 2, C]. If ``pending`` [2 C or more] is given, the groups' average means and
    unbiased variances are added to it, and 1 to its other elements."""
    voxels = _grouped(x, groups)
    var, mean = torch.var_mean(voxels, dim=(1, 3), correction=0)
    if pending is not None:
        count = voxels[0, :, 0].numel()
        means = torch.cat([mean, var * (count / (count - 1))], 1).mean(0)
        pending += F.pad(means, (0, len(pending) - len(means)), value=1.0)
    return torch.stack([mean, var], 1)


@torch.library.custom_op("dira_scale::norm_act_apply", mutates_args=())
def norm_act_apply(
    x: Tensor, stats: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None,
    slope: float, eps: float,
) -> Tensor:  # fmt: skip
    """Return the normalised, activated map, in the type and layout of ``x``."""
    y = _affine(_normal(x, stats, eps), weight, bias).flatten(0, 1).view(x.shape)
    y = y if residual is None else y + residual
    return torch.empty_like(x).copy_(F.leaky_relu(y, slope))


@torch.library.custom_op("dira_scale::norm_act_sums", mutates_args=("dz",))
def norm_act_sums(
    dy: Tensor, x: Tensor, y: Tensor | None, dz: Tensor | None, stats: Tensor, weight: Tensor | None,
    bias: Tensor | None, slope: float, eps: float,
) -> Tensor:  # fmt: skip
    """Return the sums of dz and dz · z [G, 2, C]; ``dz``, if given, is written, and ``y`` tells what was negative."""
    normal, gradient = _normal(x, stats, eps), _grouped(dy, len(stats))
    positive = (_affine(normal, weight, bias) if y is None else _grouped(y, len(stats))) > 0
    gradient = torch.where(positive, gradient, gradient * slope)
    if dz is not None:
        dz.copy_(gradient.flatten(0, 1).view(x.shape))
    return torch.stack([gradient.sum((1, 3)), (gradient * normal).sum((1, 3))], 1)


@torch.library.custom_op("dira_scale::norm_act_gradient", mutates_args=())
def norm_act_gradient(
    dz: Tensor, x: Tensor, stats: Tensor, weight: Tensor | None, bias: Tensor | None, sums: Tensor, slope: float,
    eps: float,
) -> Tensor:  # fmt: skip
    """Return the gradient of ``x``; ``slope``: of the activation that is still to be differentiated, 1 if none is."""
    normal, gradient = _normal(x, stats, eps), _grouped(dz, len(stats))
    count = gradient[0, :, 0].numel()
    gradient = torch.where(_affine(normal, weight, bias) > 0, gradient, gradient * slope)
    of_dz, of_both = (sums / count).unbind(1)
    gradient = gradient - _shaped(of_dz) - normal * _shaped(of_both)
    scale = torch.rsqrt(stats[:, 1] + eps) * (1 if weight is None else weight)
    return torch.empty_like(x).copy_((gradient * _shaped(scale)).flatten(0, 1).view(x.shape))


@norm_act_stats.register_fake
def _(x: Tensor, groups: int, pending: Tensor | None) -> Tensor:
    return x.new_empty(groups, 2, x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))


@norm_act_apply.register_fake
def _(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x)


@norm_act_sums.register_fake
def _(dy: Tensor, x: Tensor, y: Tensor | None, dz: Tensor | None, stats: Tensor, *_: object) -> Tensor:
    return torch.empty_like(stats)


@norm_act_gradient.register_fake
def _(dz: Tensor, x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x)


def _grouped(x: Tensor, groups: int) -> Tensor:
    """[b, C, *size] -> [G, b / G, C, pixels], of a type for sums."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).flatten(2).unflatten(0, (groups, -1))


def _shaped(values: Tensor) -> Tensor:
    """[G, C] -> [G, 1, C, 1]."""
    return values[:, None, :, None]


def _normal(x: Tensor, stats: Tensor, eps: float) -> Tensor:
    mean, var = stats.unbind(1)
    return (_grouped(x, len(stats)) - _shaped(mean)) * _shaped(torch.rsqrt(var + eps))


def _affine(normal: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return normal if weight is None or bias is None else normal * weight[:, None] + bias[:, None]
