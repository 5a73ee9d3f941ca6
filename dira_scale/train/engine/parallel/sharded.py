"""The base of the sharded strategies: each process holds parts of the module, which is sharded anew for every stage."""

import copy
import gc
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from dira_scale.train.distributed.world import World
from dira_scale.train.engine import optim
from dira_scale.train.engine.parallel.model import MODULE, OPTIMIZER, MakeOptimizer, Prepare, StageModel, piece
from dira_scale.train.models.grouped_norm import GroupedBatchNorm
from dira_scale.train.runs.checkpoint import CheckpointTensor


class ShardedModel(StageModel):
    """``original`` stays on the CPU; ``module``, a copy on the device, is sharded.

    ``group``: the processes over which it is; None: all.
    """

    group: Any = None

    def __init__(
        self,
        world: World,
        original: nn.Module,
        module: nn.Module,
        prepare: Prepare,
        make: MakeOptimizer,
    ) -> None:
        self.world, self.module, self._original, self._prepare = world, module, original, prepare
        self._shard(prepare(module), make)

    def averaging(self) -> Callable[[], list[Tensor]]:
        return self.gradients

    def gradients(self) -> list[Tensor]:
        """This process's parts, which the backward pass has averaged."""
        raise NotImplementedError

    def norm(self, gradients: list[Tensor]) -> Tensor:
        total = get_total_norm(gradients).square().to(self.world.device)
        dist.all_reduce(total, group=self.group)
        return total.sqrt()

    def unsharded(self) -> nn.Module:
        gathered = copied(self._original, "cpu" if self.world.main else "meta")
        self._prepare(gathered)
        self.gather_into(gathered)
        return gathered

    def gather_into(self, unsharded: nn.Module) -> None:
        """Copy the sharded module's values to ``unsharded``, on the CPU, one tensor at a time; on the meta device they
        are dropped. Collective."""
        values = unsharded.state_dict()  # the tensors themselves: a rank never holds two whole modules
        for name, tensor in self.module.state_dict(keep_vars=True).items():
            values[name].copy_(self.whole(tensor).detach())

    def hand_back(self, original: nn.Module) -> None:
        """Give ``original`` the values, as the stage has left them. Collective."""
        self.gather_into(original)

    def release(self) -> None:
        """Release the sharded module before the next stage."""
        del self.wrapped, self.optimizer, self.module
        gc.collect()  # torch's sharded modules refer to themselves

    def pieces(self) -> dict[str, CheckpointTensor]:
        pieces = {f"{MODULE}.{name}": part for name, part in self.module_pieces().items()}
        states = optim.state_by_name(self.optimizer, self.module, OPTIMIZER)
        return pieces | {name: piece(state) for name, state in states.items()}

    def module_pieces(self) -> dict[str, CheckpointTensor]:
        return {name: piece(tensor) for name, tensor in self.module.state_dict(keep_vars=True).items()}

    def whole(self, tensor: Tensor) -> Tensor:
        """All of a tensor of the module. Collective."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def _shard(self, forward: nn.Module, make: MakeOptimizer) -> None:
        """Shard ``module``, which ``forward`` calls; sets ``wrapped`` and ``optimizer``."""
        raise NotImplementedError


def copied(module: nn.Module, device: str | None = None) -> nn.Module:
    """A deep copy that shares the process groups. ``device``: where its parameters lie, without values; None: as the
    module's."""
    memo = {id(m.process_group): m.process_group for m in module.modules() if isinstance(m, GroupedBatchNorm)}
    for parameter in module.parameters() if device else ():
        memory = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        memo[id(parameter)] = nn.Parameter(memory, parameter.requires_grad)
    return copy.deepcopy(module, memo)
