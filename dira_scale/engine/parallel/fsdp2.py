"""Parameters, gradients and optimizer states sharded by torch's ``fully_shard``, gathered block by block.

Called directly, as Accelerate enables FSDP only on GPUs: so the same code path runs, and is tested, on CPUs.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.torch_version import TorchVersion

from dira_scale.engine.parallel.model import MakeOptimizer
from dira_scale.engine.parallel.recompute import blocks
from dira_scale.engine.parallel.sharded import ShardedModel
from dira_scale.models.momentum import local_shard


class FullyShardedModel(ShardedModel):
    """ZeRO stage 3 in torch. Momentum networks are sharded in the same way as the encoder that they follow."""

    # In torch 2.11 the backward pass of the first step fails after a loss was differentiated for the monitors ("data is
    # not allocated yet"). 2.13 is the first release that we have seen work.
    differentiable = TorchVersion(torch.__version__) >= "2.13"

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        assert isinstance(self.module, FSDPModule)
        self.module.set_requires_gradient_sync(last)
        return nullcontext()

    def gradients(self) -> list[Tensor]:
        return [local_shard(gradient) for gradient in super().gradients()]

    def _shard(self, forward: nn.Module, make: MakeOptimizer) -> None:
        mesh = init_device_mesh(self.world.device.type, (dist.get_world_size(),))
        for block in blocks(self.module):
            fully_shard(block, mesh=mesh)
        fully_shard(self.module, mesh=mesh)
        self.wrapped = forward.train()
        self.optimizer = make(self.module)
