"""Momentum networks: exponential moving averages of trained ones."""

import copy
import math
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from dira_scale.train.distributed.collectives import rank
from dira_scale.train.models.cut import Cut
from dira_scale.train.models.encoder import disable_randomness

Module = TypeVar("Module", bound=nn.Module)


def momentum_copy(module: Module) -> Module:
    """Return a copy of ``module`` without gradient, at which its moving average starts; stochastic depth and dropout
    are the trained one's alone."""
    average = copy.deepcopy(module).requires_grad_(False)
    disable_randomness(average)
    return average


def rising(momentum: float, progress: float) -> float:
    """Return the momentum at a share ``progress`` of a stage: from ``momentum`` to 1 by half a cosine (BYOL, DINO)."""
    return 1 - (1 - momentum) * (math.cos(math.pi * progress) + 1) / 2


@torch.no_grad()
def ema_update(average: Iterable[nn.Parameter], trained: Iterable[nn.Parameter], rate: float) -> None:
    """average <- average + rate · (trained - average), in place: fp32, fused where the device supports it.

    Of sharded parameters every process updates its own shards without communication: both networks are sharded alike.
    """
    torch._foreach_lerp_([local_shard(p) for p in average], [local_shard(p) for p in trained], rate)


def local_shard(tensor: Tensor) -> Tensor:
    """This process's part, sharing its memory: the whole tensor, its rows, or ZeRO-3's partition."""
    if isinstance(tensor, Cut):
        return tensor.local
    if isinstance(tensor, DTensor):
        part: Tensor = tensor.to_local()
        return part.detach()
    held: Tensor = getattr(tensor, "ds_tensor", tensor)
    return held.detach()


def local_start(tensor: Tensor) -> int:
    """How many of the tensor's elements, in row-major order, are before those of :func:`local_shard`."""
    if isinstance(tensor, Cut):
        return tensor.share.start(len(tensor)) * math.prod(tensor.shape[1:])
    if isinstance(tensor, DTensor):
        _, (row, *_) = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        assert all(place == Shard(0) or place.is_replicate() for place in tensor.placements)
        return row * math.prod(tensor.shape[1:])
    return rank() * tensor.ds_tensor.numel() if hasattr(tensor, "ds_tensor") else 0
