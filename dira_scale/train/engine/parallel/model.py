"""A task's module in one stage: how it is called, differentiated, stepped and saved. Here: replicated on every process.

It is created when a stage begins and released when it ends. ``sharded.py`` is the base of the sharded kinds.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from dira_scale.base.machine.graphs import launch
from dira_scale.train.distributed.collectives import world as processes
from dira_scale.train.distributed.world import World
from dira_scale.train.engine import optim
from dira_scale.train.models.momentum import local_shard, local_start
from dira_scale.train.runs.checkpoint import CheckpointTensor, StoredTensors

Prepare = Callable[[nn.Module], nn.Module]  # Task.prepare of a stage
MakeOptimizer = Callable[[nn.Module], Optimizer]
# Prefixes of names: the module's tensors, and its optimizer's states. Checkpoints have the task's names (``state.py``).
MODULE, OPTIMIZER = "module", "optimizer"


class StageModel:
    """Replicas: every process has the complete module, and gradients are averaged.

    Attributes:
        module: as evaluation calls it.
        wrapped: as training calls it.
        optimizer: the torch optimizer, whose rates the engine sets.
        differentiable: whether a loss may be differentiated before ``backward`` (monitors do).
        fuses: whether ``make`` may choose fused kernels.

    Args:
        module: unsharded, on the device.
        prepare: sets what the stage trains; returns what training calls.
        make: creates the module's optimizer.
    """

    module: nn.Module
    wrapped: nn.Module
    optimizer: Optimizer
    differentiable = fuses = True

    def __init__(self, world: World, module: nn.Module, prepare: Prepare, make: MakeOptimizer) -> None:
        self.world, self.module = world, module
        if world.ranks > 1:  # other processors may have drawn other weights
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.detach(), 0)
        self.wrapped = prepare(module).train()
        self.optimizer = make(module)

    def load(self, stored: StoredTensors, prefix: str) -> None:
        """Load the optimizer's state, which has the names of :meth:`pieces` with ``prefix`` in the place of OPTIMIZER:
        what this process holds of it."""
        optim.load_by_name(self.optimizer, self.module, prefix, stored)

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Around both passes of a micro-batch. Sharded strategies average over ranks only in the ``last`` one."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss`` to those of the step's earlier micro-batches."""
        loss.backward()

    def averaging(self) -> Callable[[], list[Tensor]]:
        """Begin to average the step's gradients over ranks, after the last micro-batch. Returns what waits for them:
        this process's parts, which may be changed in place. Collective."""
        return GradientMeans(self.module, beside=True).wait

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Norm of the total gradient, the same on all ranks."""
        return get_total_norm(gradients)

    def step(self) -> None:
        self.optimizer.step()
        self.skip()

    def skip(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def pieces(self) -> dict[str, CheckpointTensor]:
        """Module and optimizer for a checkpoint: what this process holds of them."""
        tensors = {f"{MODULE}.{name}": tensor for name, tensor in self.module.state_dict().items()}
        tensors |= optim.state_by_name(self.optimizer, self.module, OPTIMIZER)
        return {name: piece(tensor) for name, tensor in tensors.items()}

    def local_tensors(self) -> dict[str, Tensor]:
        """This process's parts of all that :meth:`pieces` has, by readable names."""
        tensors = {f"{MODULE}.{name}": local_shard(t) for name, t in self.module.state_dict(keep_vars=True).items()}
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        for i, (parameter, state) in enumerate(self.optimizer.state.items()):
            name = f"{OPTIMIZER}.{names.get(id(optim.whole(parameter)), f'partition {i}')}"
            tensors |= {
                f"{name}.{key}": local_shard(value) for key, value in state.items() if isinstance(value, Tensor)
            }
        return tensors

    def unsharded(self) -> nn.Module:
        """The unsharded module, for the main process to evaluate alone. Collective; on the CPU if it was gathered:
        then the others' has no values."""
        return self.module


class GradientMeans:
    """The gradients of a replicated module, averaged over ranks by one collective: as DDP does, but after the backward
    pass, which can so be a graph, and always in one order.

    ``beside``: whether the collective is only begun, and what follows computes meanwhile.
    """

    def __init__(self, module: nn.Module, beside: bool = False) -> None:
        self.gradients, self.beside = [p.grad for p in module.parameters() if p.grad is not None], beside
        if processes() > 1 and self.gradients:
            self._flat = torch.cat([gradient.reshape(-1) for gradient in self.gradients]).div_(processes())

            def send() -> None:
                self._work = dist.all_reduce(self._flat, async_op=beside)

            launch(send)

    @torch.no_grad()
    def wait(self) -> list[Tensor]:
        """The gradients, in place. On a GPU its stream waits, not the host."""
        if processes() > 1 and self.gradients:
            if self.beside:
                launch(lambda: self._work.wait())
            parts = self._flat.split([gradient.numel() for gradient in self.gradients])
            of_each = [part.view_as(x) for part, x in zip(parts, self.gradients, strict=True)]
            torch._foreach_copy_(self.gradients, of_each)
        return self.gradients


def piece(tensor: Tensor) -> CheckpointTensor:
    """The checkpoint entry of a replicated tensor, or of a DTensor, whose copies share the writing."""
    if not isinstance(tensor, DTensor):
        return CheckpointTensor(tensor.shape, tensor.detach())
    mesh, number, copies = tensor.device_mesh, 0, 1
    for dim, place in enumerate(tensor.placements):
        if place.is_replicate():
            number, copies = number * mesh.size(dim) + mesh.get_local_rank(dim), copies * mesh.size(dim)
    return CheckpointTensor(tensor.shape, local_shard(tensor), local_start(tensor), (number, copies))
