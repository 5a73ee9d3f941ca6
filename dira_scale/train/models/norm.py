"""BatchNorm over fixed groups of the *global* batch, so that learning curves do not depend on the number of processes.

The global batch is split into ``groups`` contiguous parts, each normalised by its own mean and variance: 4 matches the
paper's four GPUs with plain BatchNorm, 1 is synchronised BatchNorm. A process that holds several groups normalises them
together on a GPU (``norm_act.py``), else one by one; a group that spans several processes is one operation over them
(``norm_over_ranks.py``). A layer does the activation that follows it, and the addition before that.

Running statistics are updated once per optimizer step, in ``commit_statistics``; forward passes only accumulate.
"""

from collections.abc import Mapping

import torch
from torch import nn

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.distributed.collectives import new_group, rank, reduce_mean, world
from dira_scale.train.models.fold import fold
from dira_scale.train.models.grouped_norm import COUNT, GroupedBatchNorm


def convert(module: nn.Module, groups: int = 1, accumulate: int = 1, by_formula: bool = False) -> nn.Module:
    """Replace every BatchNorm in ``module`` by one over ``groups`` groups of the global batch, which does what
    follows it (``fold.py``); returns the module.

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
    fold(module)
    regroup(module, groups, accumulate)
    return module


def _plain(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.batchnorm._BatchNorm) and not isinstance(layer, GroupedBatchNorm)


def regroup(module: nn.Module, groups: int, accumulate: int = 1) -> None:
    """Divide the batches that come into ``groups`` groups, in a module that :func:`convert` has returned.

    Collective: every process calls it, with the same arguments.

    Raises ArgumentError if groups, processes and micro-batches (``accumulate`` per step) do not divide.
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
        shared = f"to divide over {ranks} processes and {accumulate} micro-batches"
        raise ArgumentError("bn_groups", groups, f"{several}{also}, {shared}; or other processes or micro-batches")
    before = first_layer(module)
    if before is None:
        return
    process_group = None  # of all processes, or this one
    if before.ranks == span:  # creating a process group takes time and sockets
        process_group = before.process_group
    elif span not in (1, ranks):  # creating a group is collective: every process creates all of them
        spans = [new_group("BatchNorm", range(first, first + span)) for first in range(0, ranks, span)]
        process_group = spans[rank() // span]
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


def spans_ranks(module: nn.Module) -> bool:
    """Return whether a converted module's groups span processes."""
    layer = first_layer(module)
    return layer is not None and layer.ranks > 1


def takes_statistics(module: nn.Module) -> bool:
    """Return whether a converted module, in training mode, normalises by batch statistics: frozen parts do not."""
    return any(isinstance(layer, GroupedBatchNorm) and layer.training for layer in module.modules())


def spanning_lines(module: nn.Module, groups: Mapping[int, int]) -> list[str]:
    """Return a line on each global batch whose groups span processes: what that costs, and what avoids it.

    ``groups``: their number by batch.
    """
    lines, ranks = [], world()
    for batch, count in groups.items() if takes_statistics(module) else ():
        if 0 < count < ranks:
            line = (
                f"BatchNorm: each of {count} group{'s' * (count > 1)} of {batch // count} samples spans "
                f"{ranks // count} processes, so every layer sends a message forward and one backward"
            )
            if (size := batch // ranks) > 1:
                other = f"model.bn_groups=null model.bn_group_size={size}"
                line += f"; {other} sends none, and gives statistics of {size} samples"
            lines.append(line)
    return lines


class RunningStatistics:
    """Those of all BatchNorms in ``module``, on its device. Handles all layers at once: a few operations for each of a
    hundred would be hundreds of launches on a GPU.

    ``momentum``: of all layers; None: each one's own; 1: the statistics are the mean that is committed.
    """

    def __init__(self, module: nn.Module, momentum: float | None = None) -> None:
        layers = self.layers = [layer for layer in module.modules() if isinstance(layer, GroupedBatchNorm)]
        if layers:
            like, self.sizes = layers[0].running_mean, [len(layer.pending) for layer in layers]
            by_layer = [layer.momentum if momentum is None else momentum for layer in layers]
            self.momenta = torch.tensor(by_layer, dtype=like.dtype).to(like.device)
            self.lengths = torch.tensor(self.sizes).to(like.device)

    @torch.no_grad()
    def commit(self) -> None:
        """Update them by the mean over all passes since the last call, groups and processes.

        Call once per optimizer step on every process; one small all-reduce. Layers without passes stay unchanged.
        """
        if not self.layers:
            return
        noted = [layer.pending for layer in self.layers]
        sums = reduce_mean(torch.cat(noted))
        # By layer its number of passes, and whether there were any. Computed on the device, as a frozen decoder must
        # not cost a synchronisation.
        passes = sums[self.lengths.cumsum(0) - 1]
        some = passes > 0
        by_channel = (x.repeat_interleave(self.lengths, output_size=len(sums)) for x in (passes, some * self.momenta))
        shares, rates = by_channel
        counters = sums.new_zeros(COUNT)  # of no use where the statistics go
        running = [buffer for layer in self.layers for buffer in (layer.running_mean, layer.running_var, counters)]
        moved = torch.lerp(torch.cat(running), sums / shares.clamp(min=1), rates)
        torch._foreach_copy_(running, moved.split([len(buffer) for buffer in running]))
        torch._foreach_zero_(noted)
        torch._foreach_add_([layer.num_batches_tracked for layer in self.layers], some.long().unbind())


def commit_statistics(module: nn.Module, momentum: float | None = None) -> None:
    """:meth:`RunningStatistics.commit` once."""
    RunningStatistics(module, momentum).commit()
