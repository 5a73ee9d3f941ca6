"""Parameters, gradients and optimizer states sharded by torch's ``fully_shard``, gathered block by block.

torch's own, not Accelerate's, which turns FSDP on where there are GPUs only: so one code path runs, and is tested, on
both.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim import Optimizer

from dira_scale.engine.parallel.recompute import blocks
from dira_scale.engine.parallel.strategy import Sharded
from dira_scale.methods.method import Method
from dira_scale.models.momentum import shard


class FullyShard(Sharded):
    """ZeRO stage 3 in torch: momentum networks are sharded with the encoder that they follow."""

    def _shard(self, make: Callable[[Method], Optimizer]) -> None:
        mesh = init_device_mesh(self.accelerator.device.type, (dist.get_world_size(),))
        for block in blocks(self.method):
            fully_shard(block, mesh=mesh)
        fully_shard(self.method, mesh=mesh)
        self.engine = self.method.train()
        self.optimizer = make(self.method)

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        assert isinstance(self.engine, FSDPModule)
        self.engine.set_requires_gradient_sync(last)
        return nullcontext()

    def gradients(self) -> list[Tensor]:
        return [shard(gradient) for gradient in super().gradients()]
