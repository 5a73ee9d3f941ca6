"""The engine's own optimizer step of a stage, run on tensors without memory: counts bytes, work and messages."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dira_scale.fleet.forecast.ledger import CollectiveMessage, Ledger, LiveBytes
from dira_scale.fleet.forecast.network import FakeTask, size, trained
from dira_scale.fleet.forecast.work import Work
from dira_scale.train.distributed.precision import LossScale
from dira_scale.train.engine import optim
from dira_scale.train.engine.means import Means
from dira_scale.train.engine.nan_guard import NaNGuard
from dira_scale.train.engine.parallel import StageModel, blocks, groups
from dira_scale.train.engine.step import Step
from dira_scale.train.engine.task import Losses, StagePlan, StepTask


class NetworkGroup(NamedTuple):
    """Blocks that ``fsdp2`` gathers together."""

    size: int  # bytes of their parameters
    learning: int  # forward passes with gradient per step
    looking: int  # forward passes without gradient per step, as of a momentum network


@dataclass(frozen=True)
class Rehearsal:
    """The memory, work and traffic of one rank in a step. In bytes, of unsharded networks."""

    images: int  # of the rank's part of the batch
    trained: int  # parameters of the generator that the stage trains; their gradients are as large
    idle: int  # parameters that only other stages train
    momentum: int  # parameters that no stage trains: momentum networks, frozen parts
    buffers: int  # queue, running statistics, teachers
    teachers: int  # parameters of teachers, which every rank has whole
    optimizer: int  # states of the generator's optimizer
    adversary: int  # the discriminator with gradients and optimizer states
    # After each operation of forward and backward passes, the discriminator's too, without all of the above.
    live_in_passes: list[LiveBytes]
    live_in_update: list[LiveBytes]  # the same while the optimizer steps
    forward: Work  # the device's
    backward: Work  # the same, with the discriminator's step and the update
    beside: Work  # the part of ``backward`` during which replicas send gradients: the discriminator's passes
    operations: int  # that torch dispatches
    collectives: list[CollectiveMessage]  # of method and BatchNorm, and for the discriminator's gradients
    blocks: int  # how many all networks have
    groups: list[NetworkGroup]

    @property
    def activations(self) -> float:
        """Peak bytes alive beside networks, gradients and states."""
        return max(live.others for live in self.live_in_passes)


def rehearse(fake: FakeTask, stage: StagePlan, samples: int, accumulate: int = 1, gpu: bool = True) -> Rehearsal:
    """Run a step of ``stage`` on a rank's ``samples`` in ``accumulate`` micro-batches.

    The step includes the task's monitors, as that takes the most memory. ``gpu``: optimizers update all parameters at
    once, as on GPUs: by fused kernels if there are such, otherwise with temporaries of their size.
    """
    module, world = fake.task.module, fake.world
    ever_trained, batch = fake.ever_trained(), fake.batch(samples, stage.size)
    gathered = [(group, Counter[bool]()) for group in groups(module)]  # forward passes, with gradient or without
    hooks = [group[0].register_forward_pre_hook(partial(_count, counter)) for group, counter in gathered]
    with fake.mode:
        task = _CountedTask(fake.task)

        def make(module: nn.Module) -> Optimizer:
            return _with_states(optim.stage_optimizer(task.optim, module, stage.batch), gpu)

        model = _Model(world, module, lambda module: task.prepare(stage, module), make)
        beside: list[Tensor] = []
        for side in task.side_modules:
            beside += [*side.module.parameters(), *_states(_with_states(side.optimizer, gpu))]
        buffers = [*module.buffers(), *fake.buffers]
        ledger = model.ledger = task.ledger = Ledger(trained(module))
        ledger.ignore([*module.parameters(), *buffers, *beside, *_states(model.optimizer)])
        guard, scale = _Guard(world.device), LossScale(False)
        step = Step(task, stage, model, guard, scale, Means(), 0, accumulate, world.device)
        with ledger:
            step(0, batch)
    for hook in hooks:
        hook.remove()
    return Rehearsal(
        images=samples,
        trained=size(ledger.watched),
        idle=size(ever_trained) - size(ledger.watched),
        momentum=size(module.parameters()) - size(ever_trained),
        buffers=size(buffers),
        teachers=size(tensor for tensor in fake.buffers if isinstance(tensor, nn.Parameter)),
        optimizer=size(_states(model.optimizer)),
        adversary=size(beside),
        live_in_passes=ledger.live_bytes[: model.update_start] + ledger.live_bytes[model.update_end :],
        live_in_update=ledger.live_bytes[model.update_start : model.update_end],
        forward=task.forward,
        backward=ledger.work - task.forward - task.monitoring,
        beside=model.beside,
        operations=ledger.operations - task.monitored,
        collectives=ledger.collectives,
        blocks=len(blocks(module)),
        groups=[
            NetworkGroup(size(p for block in group for p in block.parameters()), count[True], count[False])
            for group, count in gathered
        ],
    )


class _Model(StageModel):
    """One rank's copy; records where in the ledger the optimizer's step starts and ends."""

    ledger: Ledger
    update_start = update_end = 0
    beside = Work()

    def averaging(self) -> Callable[[], list[Tensor]]:
        """Return what collects gradients unsent (``strategies`` counts sending); note what computes meanwhile."""
        before = self.ledger.work

        def averaged() -> list[Tensor]:
            self.beside, self.update_start = self.ledger.work - before, len(self.ledger.live_bytes)
            return [p.grad for p in self.module.parameters() if p.grad is not None]

        return averaged

    def step(self) -> None:
        super().step()
        self.update_end = len(self.ledger.live_bytes)


class _CountedTask:
    """A task that counts the work of forward passes and what monitors take; the rest are backward passes."""

    ledger: Ledger
    forward = monitoring = Work()
    monitored = 0
    monitor_every = 1

    def __init__(self, task: StepTask) -> None:
        self.task, self.module, self.side_modules, self.optim = task, task.module, task.side_modules, task.optim

    def prepare(self, stage: StagePlan, module: nn.Module) -> nn.Module:
        return self.task.prepare(stage, module)

    def losses(self, stage: StagePlan, model: nn.Module, micro: Any) -> Losses:
        before = self.ledger.work
        losses = self.task.losses(stage, model, micro)
        self.forward += self.ledger.work - before
        return losses

    def monitor(self, losses: Any, scale: float, differentiable: bool) -> dict[str, Tensor]:
        """Counts the memory of monitoring, but not its work and messages: they occur once in hundreds of steps."""
        work, operations, sent = self.ledger.work, self.ledger.operations, len(self.ledger.collectives)
        monitors = self.task.monitor(losses, scale, differentiable)
        self.monitoring += self.ledger.work - work
        self.monitored += self.ledger.operations - operations
        del self.ledger.collectives[sent:]
        return monitors

    def after_step(self, module: nn.Module) -> None:
        self.task.after_step(module)


class _Guard(NaNGuard):
    """Clears gradients without reading them first, as on a GPU: there are no values to read."""

    def _must_clear(self) -> bool:
        return True


def _count(passes: Counter[bool], *_: Any) -> None:
    passes[torch.is_grad_enabled()] += 1


def _with_states(optimizer: Optimizer, gpu: bool) -> Optimizer:
    """``optimizer`` after a first step, which creates its states."""
    for group in optimizer.param_groups:
        if gpu and optim.has_fused(type(optimizer), group):
            group["fused"] = True
        elif "foreach" in group and not group.get("fused"):
            group["foreach"] = gpu
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def _states(optimizer: Optimizer) -> list[Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
