"""The layer of ``norm.py``: BatchNorm over groups of the global batch, with what is added after it and activated."""

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dira_scale.train.distributed.collectives import gather
from dira_scale.train.models.norm_act import NormAct, fuses, slope_of
from dira_scale.train.models.norm_over_ranks import BatchNormOverRanks

COUNT = 4  # counters after the statistics, each 1 per pass; four of them keep groups aligned to 16 bytes
_recomputing = False


class GroupedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Drop-in for ``nn.BatchNorm1d/2d/3d`` (same parameters, buffers and evaluation), built by ``convert``.

    ``groups``: groups of the global batch. ``local``: number of groups in one micro-batch of this process; if 1, the
    group may span the ``ranks`` processes of ``process_group``. ``by_formula``: whether the layer stays differentiable
    more than once where its group spans processes. Input [b, C, ...] with b % local == 0.
    """

    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    pending: Tensor  # sums since the last commit: C means, C unbiased variances, COUNT times the number of passes
    noted: Tensor  # what torch's kernels wrote in the last pass: the same, with COUNT ones; a row for each of several

    groups = local = ranks = 1
    process_group: Any = None
    by_formula = False
    fusable = True  # whether its statistics are those of all positions

    def __init__(self, like: Any) -> None:
        super().__init__(like.num_features, like.eps, like.momentum, like.affine, device="meta")
        assert like.momentum is not None and like.track_running_stats, "an exponential running mean is assumed"
        self.weight, self.bias, self.training = like.weight, like.bias, like.training
        self.running_mean, self.running_var = like.running_mean, like.running_var
        self.num_batches_tracked = like.num_batches_tracked
        # timm's BatchNormAct2d carries the dropout and activation that follow it.
        self.drop, self.act = getattr(like, "drop", nn.Identity()), getattr(like, "act", nn.Identity())
        pending = like.running_mean.new_zeros(2 * like.num_features + COUNT)
        self.register_buffer("pending", pending, persistent=False)
        self.register_buffer("noted", torch.ones_like(pending), persistent=False)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if x.dim() < 2:
            raise ValueError(f"expected [b, C, ...], got {list(x.shape)}")
        divides = not self.training or len(x) % self.local == 0
        assert divides, f"a micro-batch of {len(x)} does not hold {self.local} equal BatchNorm groups"
        if not self.training:
            y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        elif self.ranks == 1 and self.fusable and not self.by_formula and fuses(x, residual):
            return self._fused(x, residual)
        else:
            y, sums = self._normalised(x)
            if not _recomputing:
                self.pending += sums
        y = self.drop(y)
        if residual is not None:
            y += residual
        return self.act(y)

    def _fused(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """Groups within this process, with what follows, in one operation where the activation is a LeakyReLU."""
        slope = slope_of(self.act) if isinstance(self.drop, nn.Identity) else None
        arguments = x, self.weight, self.bias, residual if slope is not None else None, self.local
        pending = None if _recomputing else self.pending
        y: Tensor = NormAct.apply(*arguments, 1.0 if slope is None else slope, self.eps, pending)
        if slope is not None:
            return y
        y = self.drop(y)
        return self.act(y if residual is None else y + residual)

    def _normalised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``x`` normalised, by operations that torch has or that span processes, and what to add to
        ``pending``."""
        # A compiler fuses the formula.
        if self.ranks > 1 and (self.by_formula or not self.affine or torch.compiler.is_compiling()):
            return self._formula_over_ranks(x)
        # In ``noted``, for a kernel to write: [C], of several groups [local, C].
        means, variances, _ = self.noted.split([self.num_features, self.num_features, COUNT], dim=-1)
        if self.ranks > 1:
            over_ranks = x, self.weight, self.bias, means, variances, self.eps, self.process_group
            y: Tensor = BatchNormOverRanks.apply(*over_ranks)
            return y, self.noted
        if self.local == 1:  # a split's backward pass would copy the gradient
            return self._torchs(x, means, variances), self.noted
        parts = zip(x.chunk(self.local), means, variances, strict=True)
        return torch.cat([self._torchs(*part) for part in parts]), self.noted.mean(0)

    def _torchs(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        # With momentum 1 the kernel writes the batch's statistics: no second pass over the data.
        return F.batch_norm(x, mean, variance, self.weight, self.bias, True, 1.0, self.eps)

    def _formula_over_ranks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One group over several processes, by formula: variances combined as Chan et al. do, for equal counts."""
        pixels = x.to(torch.promote_types(x.dtype, torch.float32))
        axes = [axis for axis in range(x.dim()) if axis != 1]
        var, mean = torch.var_mean(pixels, dim=axes, correction=0)
        means, variances = gather(torch.stack([mean, var])[None], self.process_group).unbind(1)
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
        scale = torch.rsqrt(var + self.eps)
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        y = torch.addcmul(shift.view(shape), pixels, scale.view(shape)).to(x.dtype)
        count = x.numel() // self.num_features * self.ranks
        return y, torch.cat([mean, var * (count / (count - 1)), var.new_ones(COUNT)]).detach()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}"


class Recomputing(AbstractContextManager[None]):
    """Around activation checkpointing's second forward passes, whose statistics are already counted. Reusable: a
    forward pass that is differentiated twice is recomputed twice."""

    def __enter__(self) -> None:
        global _recomputing
        self._before, _recomputing = _recomputing, True

    def __exit__(self, *error: object) -> None:
        global _recomputing
        _recomputing = self._before
