"""``parallel.compile``: torch.compile by region, as equal blocks share a graph, and compiling takes minutes."""

from collections.abc import Iterator, Set
from typing import Any

import torch
import torch._dynamo
import torch._functorch.config
from torch import nn
from torch._dynamo.utils import counters

from dira_scale.train.engine.parallel.recompute import blocks
from dira_scale.train.models.grouped_norm import GroupedBatchNorm

# Regions of one class share this limit. A ResNet-50 has 8 kinds of blocks, each with gradient, without, and in
# evaluation; those beyond torch's default of 8 would run uncompiled.
LIMIT = 64


def compile_module(module: nn.Module) -> None:
    """Compile the regions of ``module``."""
    torch._dynamo.config.recompile_limit = LIMIT
    # Monitors differentiate a step's losses twice, so a backward pass must not reuse its input buffers.
    torch._functorch.config.donated_buffer = False
    # Static shapes: with dynamic ones inductor fails at the decoder's upsampling (torch 2.13).
    compile_regions(module, dynamic=False)


def compile_regions(module: nn.Module, **options: Any) -> None:
    """Compile each region of ``module`` at its first call; ``options`` as of :func:`torch.compile`."""
    for region in regions(module):
        # A frame of torch's own is passed over: a graph for each layer. Not where recomputation stands in its place.
        if type(region).forward is nn.Sequential.forward and "forward" not in vars(region):
            region.forward = torch.compile(region.forward, **options)
        else:
            region.compile(**options)


def regions(module: nn.Module) -> list[nn.Module]:
    """The blocks of networks, and what is in none of them, as large as possible: projectors, heads, a discriminator, a
    stem's BatchNorm with what follows it. Not single layers of torch's, which are one kernel each, and nothing in a
    module that says ``compiles = False``."""
    return list(_outermost(module, set(blocks(module)))) if getattr(module, "compiles", True) else []


def take_uncompiled() -> list[str]:
    """A warning if since the last call torch has met more than ``LIMIT`` kinds of inputs of a function."""
    given_up = [reason for reason in counters["unimplemented"] if "recompile limit" in reason]
    count = sum(counters["unimplemented"].pop(reason) for reason in given_up)
    if not count:
        return []
    functions = "1 function" if count == 1 else f"{count} functions"
    return [
        f"parallel.compile: {functions} met more kinds of inputs than the {torch._dynamo.config.recompile_limit} that "
        "torch may compile; others now run uncompiled, slower: train, validate and evaluate with fewer sizes"
    ]


def _outermost(module: nn.Module, of_networks: Set[nn.Module]) -> Iterator[nn.Module]:
    """Yield ``of_networks``, and what pays beside them: BatchNorm, or several layers with parameters, called as one."""
    for child in module.children():
        layers = [part for part in child.modules() if any(True for _ in part.parameters(recurse=False))]
        several = len(layers) > 1 and not isinstance(child, nn.ModuleList | nn.ModuleDict)
        pays = several or isinstance(child, GroupedBatchNorm)
        if child in of_networks or (pays and of_networks.isdisjoint(child.modules())):
            yield child
        else:
            yield from _outermost(child, of_networks)
