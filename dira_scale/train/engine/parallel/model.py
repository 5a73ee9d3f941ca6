"""A task's module in one stage: how it is called, differentiated, stepped and saved. Here: replicated on every process.

It is created when a stage begins and released when it ends. ``sharded.py`` is the base of the sharded kinds.
"""

import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from dira_scale.train.distributed.collectives import world as processes
from dira_scale.train.distributed.world import World
from dira_scale.train.engine import optim
from dira_scale.train.models.momentum import local_shard
from dira_scale.train.runs.checkpoint import CheckpointTensor

Prepare = Callable[[nn.Module], nn.Module]  # Task.prepare of a stage
MakeOptimizer = Callable[[nn.Module], Optimizer]
# Prefixes of names: the module's tensors, and its optimizer's states. Checkpoints have the task's names (``state.py``).
MODULE, OPTIMIZER = "module", "optimizer"


@cache
def spend_ddp_warning(device: torch.device) -> None:
    """DDP warns, once per process, that looking for unused parameters found none. We look for another reason
    (``train/distributed/processes.py``). The warning is C++'s, which no Python filter reaches, so a tiny module draws
    it while stderr is away. Collective; takes no random numbers.
    """
    tiny = DistributedDataParallel(nn.PReLU().to(device), find_unused_parameters=True)
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        tiny(torch.zeros(1, device=device))  # waits for no other process, so nothing else is hidden for long
    finally:
        os.dup2(kept, 2)
        os.close(kept)


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
        state: of the optimizer, by :meth:`pieces`' names; empty for a new one.
    """

    module: nn.Module
    wrapped: nn.Module
    optimizer: Optimizer
    differentiable = fuses = True

    def __init__(
        self, world: World, module: nn.Module, prepare: Prepare, make: MakeOptimizer, state: dict[str, Tensor]
    ) -> None:
        self.world, self.module = world, module
        wrapped = prepare(module)
        if world.ranks > 1:
            world.accelerator.free_memory()  # release the previous stage
            spend_ddp_warning(world.device)
            with warnings.catch_warnings():  # Accelerate and older torch do not know its replacement
                warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
                wrapped = world.accelerator.prepare_model(wrapped)
        self.wrapped = wrapped.train()
        self.optimizer = make(module)
        optim.load_by_name(self.optimizer, module, OPTIMIZER, state)

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward pass of a micro-batch: average gradients over ranks only in the last one."""
        if last or not isinstance(self.wrapped, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return self.wrapped.no_sync()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss`` to those of the step's earlier micro-batches."""
        loss.backward()

    def gradients(self) -> list[Tensor]:
        """This process's parts of the step's gradients, after the last micro-batch; may be changed in place."""
        return [p.grad for p in self.module.parameters() if p.grad is not None]

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Norm of the total gradient, the same on all ranks."""
        return get_total_norm(gradients)

    def step(self) -> None:
        self.optimizer.step()
        self.skip()

    def skip(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def pieces(self) -> dict[str, CheckpointTensor]:
        """Module and optimizer for a checkpoint."""
        tensors = {f"{MODULE}.{name}": tensor for name, tensor in self.module.state_dict().items()}
        tensors |= optim.state_by_name(self.optimizer, self.module, OPTIMIZER)
        return {name: piece(tensor) for name, tensor in tensors.items()}

    def local_tensors(self) -> dict[str, Tensor]:
        """This process's parts of all that :meth:`pieces` gathers, by readable names."""
        tensors = {f"{MODULE}.{name}": local_shard(t) for name, t in self.module.state_dict(keep_vars=True).items()}
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        for i, (parameter, state) in enumerate(self.optimizer.state.items()):
            name = f"{OPTIMIZER}.{names.get(id(parameter), f'partition {i}')}"
            tensors |= {
                f"{name}.{key}": local_shard(value) for key, value in state.items() if isinstance(value, Tensor)
            }
        return tensors

    def unsharded(self) -> nn.Module:
        """The unsharded module, for one process to evaluate alone. Collective; on the CPU if it had to be gathered."""
        return self.module


def average_gradients(module: nn.Module) -> None:
    """Average the gradients of a small replicated module over ranks, in one collective."""
    if processes() == 1:
        return
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in grads])
    dist.all_reduce(flat)
    flat /= processes()
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def piece(tensor: Tensor) -> CheckpointTensor:
    """The checkpoint entry of a replicated tensor, or of a DTensor."""
    if isinstance(tensor, DTensor):
        return CheckpointTensor(tensor.shape, tensor.dtype, lambda: tensor.full_tensor().detach())
    return CheckpointTensor(tensor.shape, tensor.dtype, lambda: tensor.detach())
