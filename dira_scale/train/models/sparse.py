"""Convolutional encoders that compute as if hidden voxels were not there (SparK: Tian et al., ICLR 2023, sec. 3.2)."""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import BlurPool2d
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd
from torch.utils.checkpoint import checkpoint

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.data.distort.corruptions.mask import spread
from dira_scale.train.distributed.collectives import gather
from dira_scale.train.models.grouped_norm import COUNT, GroupedBatchNorm
from dira_scale.train.models.network import Encoder, pyramid_sizes

_GLOBAL = re.compile(  # classes that mix all positions
    "Attention|Attn|SqueezeExcite|SEModule|EcaModule|CecaModule|Global|GatherExcite|EvoNorm|FilterResponse"
)


class Hidden:
    """The blocks that a sparse encoder's layers must not see: ``blocks`` bool [b, *blocks], set before every forward.

    It stays until the next one, as activation checkpointing calls the layers again in the backward pass.
    """

    def __init__(self) -> None:
        self._positions = dict[tuple[int, ...], Tensor]()  # that are hidden, for each size that maps have

    @property
    def blocks(self) -> Tensor:
        return self._blocks

    @blocks.setter
    def blocks(self, blocks: Tensor) -> None:
        self._blocks = blocks
        self._positions = {size: spread(blocks, size)[:, None] for size in self._positions}

    def at(self, x: Tensor) -> Tensor:
        """bool [b, 1, *x's size]: which positions of a map ``x`` [b, C, *size] are hidden."""
        size = tuple(x.shape[2:])
        if size not in self._positions:
            self._positions[size] = spread(self.blocks, size)[:, None]
        return self._positions[size]

    def cleared(self, x: Tensor) -> Tensor:
        """``x`` with zeros where it is hidden."""
        return x.masked_fill(self.at(x), 0.0)

    def clear_input(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.cleared(inputs[0]), *inputs[1:]

    def clear_output(self, layer: nn.Module, inputs: Any, pyramid: list[Tensor]) -> list[Tensor]:
        return [self.cleared(x) if x.shape[1] else x for x in pyramid]


def sparsify(encoder: Encoder, size: Sequence[int], blocks: Sequence[int]) -> Hidden:
    """Make ``encoder`` sparse, in place; names and shapes of its parameters stay. Returns what hides.

    Before every layer that mixes positions (a convolution wider than 1, a pooling, a blur) hidden ones are zeroed,
    which at visible positions equals SparK's zeroing after it, whatever is between; the returned maps are zero where
    hidden. Norms over positions take the statistics of the visible ones.

    Args:
        size: of views.
        blocks: of a view, on each axis.

    Raises ArgumentError if the network mixes all positions, or a block is not a whole number of its coarsest voxels.
    """
    for layer in encoder.modules():
        if _GLOBAL.search(kind := type(layer).__name__):
            raise ArgumentError("masking", "sparse", f"dense: {encoder.name} mixes all positions ({kind})")
    coarsest = pyramid_sizes(encoder, size)[-1]
    if any(side % count for side, count in zip(coarsest, blocks, strict=True)):
        steps = [n // side for n, side in zip(size, coarsest, strict=True)]
        step = steps[0] if len({*steps}) == 1 else steps
        expected = f"dense, or blocks whose sides are multiples of {step}, a voxel of {encoder.name}'s coarsest map"
        raise ArgumentError("masking", "sparse", expected)
    hidden = Hidden()
    for parent in list(encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, SparseBatchNorm(child, hidden))
            elif isinstance(child, _InstanceNorm | nn.GroupNorm):
                setattr(parent, name, SparseGroupNorm(child, hidden))
    for layer in encoder.modules():
        wide = isinstance(layer, _ConvNd | _MaxPoolNd | _AvgPoolNd) and layer.kernel_size not in (1, (1,) * len(size))
        if wide or isinstance(layer, BlurPool2d):
            layer.register_forward_pre_hook(hidden.clear_input)
    encoder.register_forward_hook(hidden.clear_output)
    return hidden


class SparseBatchNorm(GroupedBatchNorm):
    """BatchNorm in groups of the global batch, whose statistics are those of the visible positions."""

    fusable = False

    def __init__(self, like: nn.modules.batchnorm._BatchNorm, hidden: Hidden) -> None:
        super().__init__(like)
        self.hidden = hidden

    def _normalised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        voxels = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(0, (self.local, -1))
        axes = [1, *range(3, voxels.dim())]
        mean, var, count = _moments(voxels, self.hidden.at(x).unflatten(0, (self.local, -1)), axes)
        if self.ranks > 1:  # Chan's formula
            means, variances, counts = gather(torch.stack([mean, var, count])[None], self.process_group).unbind(1)
            count = counts.sum(0)
            mean = (counts * means).sum(0) / count
            var = (counts * (variances + (means - mean).square())).sum(0) / count
        y = _scaled(((voxels - mean) * torch.rsqrt(var + self.eps)).flatten(0, 1), self).to(x.dtype)
        unbiased = var * (count / (count - 1).clamp(min=1))
        sums = [statistic.reshape(self.local, -1).mean(0) for statistic in (mean, unbiased)]
        return y, torch.cat([*sums, sums[0].new_ones(COUNT)]).detach()


class SparseGroupNorm(nn.Module):
    """GroupNorm, or InstanceNorm (a group for each channel), by the statistics of a sample's visible positions."""

    def __init__(self, like: nn.GroupNorm | _InstanceNorm, hidden: Hidden) -> None:
        super().__init__()
        if isinstance(like, _InstanceNorm) and like.track_running_stats:
            raise ArgumentError("masking", "sparse", "dense: an InstanceNorm has running statistics")
        self.groups = like.num_groups if isinstance(like, nn.GroupNorm) else like.num_features
        self.eps, self.weight, self.bias, self.hidden = like.eps, like.weight, like.bias, hidden
        # timm's GroupNormAct carries the dropout and activation that follow it.
        self.drop, self.act = getattr(like, "drop", nn.Identity()), getattr(like, "act", nn.Identity())

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = checkpoint(self._normed, x, self.hidden.at(x)[:, None], use_reentrant=False, preserve_rng_state=False)
        y = self.drop(y)
        return self.act(y if residual is None else y + residual)

    def _normed(self, x: Tensor, hidden: Tensor) -> Tensor:
        """``x`` without its activation, computed again in the backward pass, which would keep three maps of float32."""
        voxels = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(1, (self.groups, -1))
        mean, var, _ = _moments(voxels, hidden, [*range(2, voxels.dim())])
        return _scaled(((voxels - mean) * torch.rsqrt(var + self.eps)).flatten(1, 2), self).to(x.dtype)


def _scaled(y: Tensor, layer: "SparseBatchNorm | SparseGroupNorm") -> Tensor:
    """``y`` [b, C, *size] times the layer's weights plus its biases, if it has them."""
    if layer.weight is None:
        return y
    shape = [-1 if axis == 1 else 1 for axis in range(y.dim())]
    return torch.addcmul(layer.bias.view(shape), y, layer.weight.view(shape))


def _moments(x: Tensor, hidden: Tensor, axes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and number over ``axes``, which stay as 1, of what is not ``hidden`` of ``x``."""
    channels = math.prod(x.shape[axis] for axis in axes if hidden.shape[axis] == 1)  # that are hidden alike
    count = ((~hidden).sum(axes, keepdim=True) * channels).clamp(min=1).to(x.dtype)
    mean = x.masked_fill(hidden, 0.0).sum(axes, keepdim=True) / count
    var = (x - mean).square().masked_fill(hidden, 0.0).sum(axes, keepdim=True) / count
    return mean, var, count.expand_as(mean)
