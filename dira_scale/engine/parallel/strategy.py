"""How the generator is called, differentiated, stepped and written down: replicas, and what sharded kinds change."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch._dynamo
import torch._functorch.config
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from dira_scale.distributed.processes import Parallel
from dira_scale.engine import optim
from dira_scale.engine.parallel.ddp import prepare
from dira_scale.engine.parallel.recompute import blocks, checkpoint_activations
from dira_scale.methods.method import Method
from dira_scale.models.momentum import shard
from dira_scale.models.norm import GroupedBatchNorm
from dira_scale.runs.checkpoint import Piece

OPTIMIZER = "optim.generator"  # how the names of its states begin in a checkpoint


class Strategy:
    """Replicas: every process has the whole generator, gradients are averaged (or there is one process).

    Attributes:
        method: the generator, as evaluation calls it; between stages it may be another object.
        engine: as it is called in training.
        optimizer: ours, whose rates the loop sets.
        whole_losses: whether a loss may be differentiated more than once (the health monitors' gradients).
    """

    engine: nn.Module
    optimizer: Optimizer
    whole_losses = True
    cuts = False  # parameters are flattened, which needs them contiguous; images are channels last all the same

    def __init__(self, accelerator: Accelerator, parallel: Parallel, method: Method) -> None:
        self.accelerator, self.parallel = accelerator, parallel
        self.method = self._dressed(method)

    def enter_stage(self, terms: Sequence[str], make: Callable[[Method], Optimizer], state: dict[str, Tensor]) -> None:
        """Train ``terms`` from now on, with the optimizer that ``make`` makes of the method, continued from ``state``
        (by :meth:`pieces`' names; empty: afresh). Collective."""
        self.method.enter_stage(terms)
        self.engine = prepare(self.accelerator, self.method).train()
        self.optimizer = make(self.method)
        optim.load_by_name(self.optimizer, self.method, OPTIMIZER, state)

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward pass of a micro-batch: gradients are averaged over ranks in the last one only."""
        if last or not isinstance(self.engine, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return self.engine.no_sync()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss`` to those of the step's micro-batches before."""
        loss.backward()

    def gradients(self) -> list[Tensor]:
        """This process's parts of the step's gradients, after the last micro-batch; in place is in earnest."""
        return [p.grad for p in self.method.parameters() if p.grad is not None]

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Total norm of the whole gradient, the same on all ranks."""
        return get_total_norm(gradients)

    def step(self) -> None:
        """Move the parameters, forget the gradients."""
        self.optimizer.step()
        self.skip()

    def skip(self) -> None:
        """Forget gradients that are no numbers, without a step."""
        self.optimizer.zero_grad(set_to_none=True)

    def pieces(self) -> dict[str, Piece]:
        """Method (``method.``) and optimizer (``optim.generator.``) for a checkpoint."""
        tensors = {f"method.{name}": tensor for name, tensor in self.method.state_dict().items()}
        tensors |= optim.state_by_name(self.optimizer, self.method, OPTIMIZER)
        return {name: piece(tensor) for name, tensor in tensors.items()}

    def held(self) -> dict[str, Tensor]:
        """This process's parts of all that :meth:`pieces` gathers, by names that a person understands."""
        tensors = {f"method.{name}": shard(t) for name, t in self.method.state_dict(keep_vars=True).items()}
        names = {id(parameter): name for name, parameter in self.method.named_parameters()}
        for i, (parameter, state) in enumerate(self.optimizer.state.items()):
            name = f"{OPTIMIZER}.{names.get(id(parameter), f'partition {i}')}"
            tensors |= {f"{name}.{key}": shard(value) for key, value in state.items() if isinstance(value, Tensor)}
        return tensors

    def replica(self) -> Method:
        """The whole method, for one process to evaluate alone; on the CPU where it had to be gathered. Collective."""
        return self.method

    def _dressed(self, method: Method) -> Method:
        """On the device, in its memory format; recomputed and compiled block by block where asked for."""
        layout = torch.channels_last if self.parallel.channels_last and not self.cuts else torch.contiguous_format
        method = method.to(self.accelerator.device, memory_format=layout)  # type: ignore[call-overload]
        if self.parallel.checkpoint_activations:
            checkpoint_activations(method)
        if self.parallel.compile:
            # Blocks of one class share this limit. A ResNet-50 has 8 kinds, each with gradient, without, and in
            # evaluation; beyond torch's 8 the others would be run uncompiled.
            torch._dynamo.config.recompile_limit = 64
            # The health monitors differentiate a step's losses twice, so a backward pass may not reuse what it read.
            torch._functorch.config.donated_buffer = False
            for block in blocks(method):
                # Shapes as they are: with sizes left open inductor fails at the decoder's upsampling (torch 2.13).
                block.compile(dynamic=False)
        return method


class Sharded(Strategy):
    """What strategies share in which a process holds parts: the method is cut anew for every stage."""

    cuts = True

    def __init__(self, accelerator: Accelerator, parallel: Parallel, method: Method) -> None:
        self.accelerator, self.parallel = accelerator, parallel
        self.method = method
        groups = [m.process_group for m in method.modules() if isinstance(m, GroupedBatchNorm)]
        self._template = copy.deepcopy(method, {id(group): group for group in groups})  # on the CPU
        self._cut = False

    def enter_stage(self, terms: Sequence[str], make: Callable[[Method], Optimizer], state: dict[str, Tensor]) -> None:
        method = self.replica()  # on the CPU: the device still holds the stage before
        if self._cut:
            self._release()
        method.enter_stage(terms)
        self.method = self._dressed(method)
        self._shard(make)
        self._cut = True
        self._load(state)

    def norm(self, gradients: list[Tensor]) -> Tensor:
        total = get_total_norm(gradients).square().to(self.accelerator.device)
        dist.all_reduce(total)
        return total.sqrt()

    def replica(self) -> Method:
        if not self._cut:
            return self.method
        groups = [m.process_group for m in self._template.modules() if isinstance(m, GroupedBatchNorm)]
        whole = copy.deepcopy(self._template, {id(group): group for group in groups})
        whole.enter_stage(self.method.active)
        whole.load_state_dict({name: part.whole().cpu() for name, part in self._method_pieces().items()})
        return whole

    def pieces(self) -> dict[str, Piece]:
        return {f"method.{name}": part for name, part in self._method_pieces().items()} | self._optimizer_pieces()

    def _method_pieces(self) -> dict[str, Piece]:
        return {name: piece(tensor) for name, tensor in self.method.state_dict(keep_vars=True).items()}

    def _optimizer_pieces(self) -> dict[str, Piece]:
        tensors = optim.state_by_name(self.optimizer, self.method, OPTIMIZER)
        return {name: piece(tensor) for name, tensor in tensors.items()}

    def _shard(self, make: Callable[[Method], Optimizer]) -> None:
        raise NotImplementedError

    def _release(self) -> None:
        """Let go of the last stage's parts."""
        del self.engine, self.optimizer, self.method

    def _load(self, state: dict[str, Tensor]) -> None:
        optim.load_by_name(self.optimizer, self.method, OPTIMIZER, state)


def piece(tensor: Tensor) -> Piece:
    """Of a tensor that every process has, or of one that is sharded as a DTensor."""
    if isinstance(tensor, DTensor):
        return Piece(tensor.shape, tensor.dtype, lambda: tensor.full_tensor().detach())
    return Piece(tensor.shape, tensor.dtype, lambda: tensor.detach())
