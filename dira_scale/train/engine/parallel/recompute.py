"""The blocks of networks, and their recomputation in the backward pass."""

from contextlib import nullcontext
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from dira_scale.train.models.grouped_norm import Recomputing


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
