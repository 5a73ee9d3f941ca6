"""BatchNorm over fixed groups of the *global* batch, so that learning curves do not depend on the number of processes.

The global batch is split into ``groups`` contiguous parts, each normalised by its own mean and variance: 4 matches the
paper's four GPUs with plain BatchNorm, 1 is synchronised BatchNorm. A process that holds several groups normalises them
one by one; a group that spans several processes is one operation over them (``norm_over_ranks.py``).

Running statistics are updated once per optimizer step, in ``commit_statistics``; forward passes only accumulate.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dira_scale.distributed.collectives import gather, new_group, rank, reduce_mean, world
from dira_scale.errors import UserError
from dira_scale.models.norm_over_ranks import BatchNormOverRanks

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
    noted: Tensor  # what the kernels wrote in the last pass: the same, with COUNT ones; a row for each group of several

    groups = local = ranks = 1
    process_group: Any = None
    by_formula = False

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

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected [b, C, ...], got {list(input.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        if not self.training:
            y = self._torchs(x, [self.running_mean, self.running_var], training=False)
        else:
            y, seen = self._over_ranks(x) if self.ranks > 1 else self._over_parts(x)
            if not _recomputing:
                self.pending += seen
        activated: Tensor = self.act(self.drop(y))
        return activated

    def _over_parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Groups within this process: torch's own BatchNorm on each. Also returns what to add to ``pending``."""
        assert len(x) % self.local == 0, f"a micro-batch of {len(x)} does not hold {self.local} equal BatchNorm groups"
        if self.local == 1:  # a split's backward pass would copy the gradient
            return self._torchs(x, self._statistics()), self.noted

        def of_parts(x: Tensor) -> Tensor:
            parts = zip(x.chunk(self.local), zip(*self._statistics(), strict=True), strict=True)
            return torch.cat([self._torchs(*part) for part in parts])

        return by_images(of_parts, x), self.noted.mean(0)

    def _torchs(self, x: Tensor, statistics: Sequence[Tensor], training: bool = True) -> Tensor:
        # With momentum 1 the kernel writes the batch's statistics: no second pass over the data.
        mean, variance = statistics
        return by_images(lambda x: F.batch_norm(x, mean, variance, self.weight, self.bias, training, 1.0, self.eps), x)

    def _statistics(self) -> list[Tensor]:
        """Means and variances in ``noted``, for a kernel to write: [C], of several groups [local, C]."""
        return [*self.noted.split([self.num_features, self.num_features, COUNT], dim=-1)[:2]]

    def _over_ranks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One group over several processes."""
        if self.by_formula or not self.affine or torch.compiler.is_compiling():  # a compiler fuses the formula
            return self._formula_over_ranks(x)
        mean, variance = self._statistics()
        given = self.weight, self.bias, mean, variance, self.eps, self.process_group
        return by_images(lambda x: BatchNormOverRanks.apply(x, *given), x), self.noted

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


def by_images(normalise: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``normalise(x)``; volumes [b, C, D, H, W] that are channels last go by their view as images [b, C, D·H, W] that
    are, too: GPUs have fast kernels for those only."""
    if not _is_channels_last_volume(x):
        return normalise(x)
    # x.flatten(2, 3) gives a single volume a stride with which torch's CPU kernel computes a wrong gradient.
    images = x.movedim(1, -1).flatten(1, 2).movedim(-1, 1)
    return normalise(images).movedim(1, -1).unflatten(1, x.shape[2:4]).movedim(-1, 1)


def _is_channels_last_volume(x: Tensor) -> bool:
    return x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous()


class InstanceNorm3d(nn.InstanceNorm3d):
    """Drop-in for torch's without running statistics that keeps volumes [b, C, D, H, W] channels last.

    torch's own returns them contiguous, and uses no more blocks of a GPU than there are channels in the batch: 40 % of
    a ResEnc's step (docs/evidence/scale.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        return by_images(self._of_each, x) if _is_channels_last_volume(x) else super().forward(x)

    def _of_each(self, x: Tensor) -> Tensor:
        each = [F.batch_norm(i, None, None, self.weight, self.bias, True, eps=self.eps) for i in x.split(1)]
        return torch.cat(each)


def convert(module: nn.Module, groups: int = 1, accumulate: int = 1, by_formula: bool = False) -> nn.Module:
    """Replace every BatchNorm in ``module`` by one over ``groups`` groups of the global batch; returns the module.

    Keeps parameters and buffers. ``by_formula``: for a module that is differentiated twice. Collective and raises as
    :func:`regroup`.
    """
    if _plain(module):
        module = GroupedBatchNorm(module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if _plain(child):
                setattr(parent, name, GroupedBatchNorm(child))
    for layer in module.modules():
        if isinstance(layer, GroupedBatchNorm):
            layer.by_formula = by_formula
    regroup(module, groups, accumulate)
    return module


def _plain(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.batchnorm._BatchNorm) and not isinstance(layer, GroupedBatchNorm)


def regroup(module: nn.Module, groups: int, accumulate: int = 1) -> None:
    """Divide the batches that come into ``groups`` groups, in a module that :func:`convert` has returned.

    Collective: every process calls it, with the same arguments.

    Raises ``UserError`` if groups, processes and micro-batches (``accumulate`` per step) do not divide.
    """
    ranks = world()
    local, span = 1, 1
    if groups % (ranks * accumulate) == 0:
        local = groups // (ranks * accumulate)
    elif accumulate == 1 and ranks % groups == 0:
        span = ranks // groups
    else:
        several = f"a multiple of {ranks * accumulate}"
        also = f", or one of {[n for n in range(1, ranks) if ranks % n == 0]}" if accumulate == 1 and ranks > 1 else ""
        raise UserError(
            f"model.bn_groups: {groups} BatchNorm groups do not divide over {ranks} processes with accumulate="
            f"{accumulate}: groups must be {several}{also}; change model.bn_groups (or "
            "bn_group_size), the processes or accumulate"
        )
    before = first_layer(module)
    if before is None:
        return
    # Creating a process group takes time and sockets, so one of the same span is kept.
    process_group = before.process_group if before.ranks == span else _process_group(span)
    for layer in module.modules():
        if isinstance(layer, GroupedBatchNorm):
            layer.groups, layer.local, layer.ranks, layer.process_group = groups, local, span, process_group
            layer.noted = torch.ones_like(layer.pending.expand(local, -1) if local > 1 else layer.pending)


def groups(module: nn.Module) -> int:
    """BatchNorm groups of the global batch in a converted module; 1 if it has no BatchNorm."""
    layer = first_layer(module)
    return layer.groups if layer else 1


def groups_at_once(module: nn.Module) -> int:
    """Return how many groups a micro-batch of all processes has."""
    layer = first_layer(module)
    return layer.local * world() // layer.ranks if layer else 1


def first_layer(module: nn.Module) -> GroupedBatchNorm | None:
    """A converted module's first BatchNorm; None if it has none. All have the same groups."""
    return next((layer for layer in module.modules() if isinstance(layer, GroupedBatchNorm)), None)


def takes_statistics(module: nn.Module) -> bool:
    """Whether a converted module, in training mode, normalises by batches' statistics: frozen parts do not."""
    return any(isinstance(layer, GroupedBatchNorm) and layer.training for layer in module.modules())


def spanning_lines(module: nn.Module, groups: Mapping[int, int]) -> list[str]:
    """Return a line on each global batch whose groups span processes: what that costs, and what avoids it.

    ``groups``: their number by batch.
    """
    if not takes_statistics(module):
        return []
    return [_spanning_line(batch, count) for batch, count in groups.items() if 0 < count < world()]


def _spanning_line(batch: int, groups: int) -> str:
    line = (
        f"BatchNorm: each of {groups} group{'s' * (groups > 1)} of {batch // groups} samples spans {world() // groups} "
        "processes, so every layer sends a message forward and one backward"
    )
    if (size := batch // world()) < 2:
        return line
    return f"{line}; model.bn_groups=null model.bn_group_size={size} sends none, and gives statistics of {size} samples"


@contextmanager
def recomputing() -> Iterator[None]:
    """A context for activation checkpointing's second forward passes: their statistics are already counted."""
    global _recomputing
    before, _recomputing = _recomputing, True
    try:
        yield
    finally:
        _recomputing = before


@torch.no_grad()
def commit_statistics(module: nn.Module, momentum: float | None = None) -> None:
    """Update the running statistics by the mean over all passes since the last call, groups and processes.

    Call once per optimizer step on every process; one small all-reduce. Layers without passes stay unchanged. Handles
    all layers at once: a few operations for each of a hundred would be hundreds of launches on a GPU.

    ``momentum``: of all layers; None: each one's own; 1: the statistics are that mean.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, GroupedBatchNorm)]
    if not layers:
        return
    noted = [layer.pending for layer in layers]
    sizes = [len(pending) for pending in noted]
    sums = reduce_mean(torch.cat(noted))
    lengths = torch.tensor(sizes).to(sums.device, non_blocking=True)
    momenta = torch.tensor([layer.momentum if momentum is None else momentum for layer in layers], dtype=sums.dtype).to(
        sums.device, non_blocking=True
    )
    # By layer its number of passes, and whether there were any. Computed on the device, as a frozen decoder must not
    # cost a synchronisation.
    passes = sums[lengths.cumsum(0) - 1]
    some = passes > 0
    shares, rates = (x.repeat_interleave(lengths, output_size=len(sums)) for x in (passes, some * momenta))
    counters = sums.new_zeros(COUNT)  # of no use where the statistics go
    running = [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var, counters)]
    moved = torch.lerp(torch.cat(running), sums / shares.clamp(min=1), rates)
    torch._foreach_copy_(running, moved.split([len(buffer) for buffer in running]))
    torch._foreach_zero_(noted)
    torch._foreach_add_([layer.num_batches_tracked for layer in layers], some.long().unbind())


def _process_group(span: int) -> Any:
    """This process's group of ``span`` consecutive ranks; None, if that is this process or all of them."""
    if span in (1, world()):
        return None
    # Creating a group is collective: every process creates all of them.
    process_groups = [new_group(range(first, first + span)) for first in range(0, world(), span)]
    return process_groups[rank() // span]
