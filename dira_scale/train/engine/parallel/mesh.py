"""Over which processes FSDP2 shards: groups of successive ones, which are replicas of each other."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import psutil
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from dira_scale.train.distributed.collectives import new_group, rank
from dira_scale.train.distributed.collectives import world as processes
from dira_scale.train.distributed.config import Parallel
from dira_scale.train.distributed.control import broadcast_from_main
from dira_scale.train.distributed.world import World
from dira_scale.train.models.cut import Cut, RowShare

REPLICATE, SHARD = "replicate", "shard"
SHARE = 0.5  # of a process's memory, for what is sharded: activations, gathered groups and the loader take the rest


def with_shard(world: World, parallel: Parallel, made: Callable[[], nn.Module]) -> World:
    """Return ``world`` with its ``shard``, unless that is known chosen by the size of the module that is ``made``, or
    as that is cut. Collective."""
    if parallel.strategy != "fsdp2":
        return replace(world, shard=0)
    if world.shard:
        return world
    module = made()
    if cut := next((p.share.shards for p in module.parameters() if isinstance(p, Cut)), 0):
        return replace(world, shard=cut)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cuda = world.device.type == "cuda"
    memory = torch.cuda.get_device_properties().total_memory if cuda else psutil.virtual_memory().total // local
    # A parameter, its gradient and two states of Adam; a momentum network's have no more than themselves.
    held = sum(parameter.nbytes * (4 if parameter.requires_grad else 1) for parameter in module.parameters())
    shard = smallest(held, SHARE * memory, world.ranks, local)
    return replace(world, shard=broadcast_from_main(shard))  # machines may differ in memory


def share(world: World, parallel: Parallel, networks: Callable[[], Sequence[nn.Module]]) -> RowShare:
    """Return which rows of the first of ``networks``, which have no values yet, this process holds. Collective."""

    def without_memory() -> nn.Module:
        with torch.device("meta"):
            return networks()[0]

    return rows_of(with_shard(world, parallel, without_memory)) if parallel.strategy == "fsdp2" else RowShare()


def rows_of(world: World) -> RowShare:
    """Return which rows of the parameters this process holds between stages."""
    shard = world.shard or processes()
    return RowShare(rank() % shard, shard)


def smallest(held: int, budget: float, ranks: int, local: int) -> int:
    """Return the smallest divisor of ``ranks`` over which a share of ``held`` bytes is within ``budget``, but at least
    a machine's ``local`` processes; ``ranks`` if there is none.

    Weights are gathered for each pass, which is fastest within a machine, and gradients go between machines as shares:
    fewer shards would hold and send more, and more of them would wait for more processes.
    """
    divisors = (n for n in range(local, ranks) if ranks % n == 0)
    return next((n for n in divisors if held <= n * budget), ranks)


@cache  # creating a process group takes time and sockets
def mesh_of(device: str, ranks: int, shard: int) -> DeviceMesh:
    """Return the mesh of processes with devices of this type, where ``shard`` of them make a replica. Collective."""
    grid, (row, column) = torch.arange(ranks).view(-1, shard), divmod(dist.get_rank(), shard)
    # Each process makes its own two groups, not all of them, of which there are hundreds.
    shards = new_group(SHARD, grid[row].tolist(), among=True)
    replicas = new_group(REPLICATE, grid[:, column].tolist(), among=True)
    return DeviceMesh.from_group([replicas, shards], device, grid, mesh_dim_names=(REPLICATE, SHARD))
