"""What the strategies share of which a process holds parts of the module: it is cut anew for every stage."""

import copy

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from dira_scale.distributed.world import World
from dira_scale.engine import optim
from dira_scale.engine.parallel.model import MODULE, OPTIMIZER, MakeOptimizer, Prepare, StageModel, piece
from dira_scale.models.norm import GroupedBatchNorm
from dira_scale.runs.checkpoint import CheckpointTensor


class ShardedModel(StageModel):
    """``whole`` stays as it is, on the CPU; ``module``, a copy of it on the device, is cut."""

    def __init__(
        self,
        world: World,
        whole: nn.Module,
        module: nn.Module,
        prepare: Prepare,
        make: MakeOptimizer,
        state: dict[str, Tensor],
    ) -> None:
        self.world, self.module, self._whole, self._prepare = world, module, whole, prepare
        self._shard(prepare(module), make)
        self._load(state)

    def norm(self, gradients: list[Tensor]) -> Tensor:
        total = get_total_norm(gradients).square().to(self.world.device)
        dist.all_reduce(total)
        return total.sqrt()

    def replica(self) -> nn.Module:
        whole = copied(self._whole)
        self._prepare(whole)
        self.gather_into(whole)
        return whole

    def gather_into(self, whole: nn.Module) -> None:
        """Give ``whole``, on the CPU, the values of the cut module. Collective."""
        values = whole.state_dict()  # the tensors themselves: one after the other, never two modules in memory
        for name, part in self._module_pieces().items():
            values[name].copy_(part.whole())

    def release(self) -> None:
        """Let go of the stage's parts, before the next stage makes its own."""
        del self.wrapped, self.optimizer, self.module

    def pieces(self) -> dict[str, CheckpointTensor]:
        return {f"{MODULE}.{name}": part for name, part in self._module_pieces().items()} | self._optimizer_pieces()

    def _module_pieces(self) -> dict[str, CheckpointTensor]:
        return {name: piece(tensor) for name, tensor in self.module.state_dict(keep_vars=True).items()}

    def _optimizer_pieces(self) -> dict[str, CheckpointTensor]:
        tensors = optim.state_by_name(self.optimizer, self.module, OPTIMIZER)
        return {name: piece(tensor) for name, tensor in tensors.items()}

    def _shard(self, forward: nn.Module, make: MakeOptimizer) -> None:
        """Cut ``module``, on which ``forward`` is; sets ``wrapped`` and ``optimizer``."""
        raise NotImplementedError

    def _load(self, state: dict[str, Tensor]) -> None:
        optim.load_by_name(self.optimizer, self.module, OPTIMIZER, state)


def copied(module: nn.Module) -> nn.Module:
    """A deep copy that shares the process groups."""
    groups = [m.process_group for m in module.modules() if isinstance(m, GroupedBatchNorm)]
    return copy.deepcopy(module, {id(group): group for group in groups})
