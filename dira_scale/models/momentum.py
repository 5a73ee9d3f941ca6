"""Momentum networks: copies that follow what is trained, by an exponential moving average."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def follow(key: Iterable[nn.Parameter], query: Iterable[nn.Parameter], rate: float) -> None:
    """key <- key + rate · (query - key), in place: fp32, in one fused pass where the device has one.

    Where parameters are sharded every process moves its own shards, and nothing is gathered: both networks are cut
    alike.
    """
    torch._foreach_lerp_([shard(p) for p in key], [shard(p) for p in query], rate)


def shard(tensor: Tensor) -> Tensor:
    """What this process holds, sharing its memory: all of it, FSDP2's local tensor, or ZeRO-3's partition."""
    if isinstance(tensor, DTensor):
        part: Tensor = tensor.to_local()
        return part.detach()
    held: Tensor = getattr(tensor, "ds_tensor", tensor)
    return held.detach()
