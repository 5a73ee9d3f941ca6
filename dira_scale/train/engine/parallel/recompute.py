"""The blocks of networks, how FSDP2 groups them, and their recomputation in the backward pass."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from itertools import groupby

from torch import nn
from torch.utils.checkpoint import checkpoint

from dira_scale.train.models.grouped_norm import Recomputing

GROUP = 50_000_000  # bytes; a group takes a GPU's processor 0.8 ms a step, however small it is


def checkpoint_activations(module: nn.Module) -> None:
    """Recompute the blocks of encoder and decoder in the backward pass: all, except those that say ``recompute=False``,
    whose maps are small (in volumes the coarser ones). Parameter names do not change."""
    for block in blocks(module):
        if getattr(block, "recompute", True):
            block.forward = partial(
                checkpoint, block.forward, use_reentrant=False, context_fn=lambda: (nullcontext(), Recomputing())
            )


def blocks(module: nn.Module) -> list[nn.Module]:
    """The residual (transformer, …) blocks of all networks in ``module``, in order; none is inside another.

    They are the members of sequences that have several layers, and modules with an attribute ``recompute``.
    """
    found: list[nn.Module] = []
    for child in module.children():
        several = isinstance(module, nn.Sequential | nn.ModuleList) and len(list(child.children())) > 1
        found += [child] if several or hasattr(child, "recompute") else blocks(child)
    return found


def groups(module: nn.Module) -> Iterator[list[nn.Module]]:
    """Yield the groups in which FSDP2 gathers the blocks of ``module``: successive ones of a sequence, with at least
    ``GROUP`` bytes of parameters. It needs members that all run, one after another, which those of a sequence do. What
    is left over at a sequence's end is in no group."""
    parents = {child: parent for parent in module.modules() for child in parent.children()}
    for _, sequence in groupby(blocks(module), parents.get):
        group: list[nn.Module] = []
        for block in sequence:
            group.append(block)
            if sum(parameter.nbytes for member in group for parameter in member.parameters()) >= GROUP:
                yield group
                group = []
