"""One optimizer step of a stage, the engine's own, on tensors without memory or data: bytes, arithmetic, messages."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dira_scale.data.batch import Batch
from dira_scale.distributed.precision import LossScale
from dira_scale.distributed.world import World
from dira_scale.engine import optim
from dira_scale.engine.means import Means
from dira_scale.engine.nan_guard import NaNGuard
from dira_scale.engine.parallel import StageModel, blocks
from dira_scale.engine.step import Step
from dira_scale.engine.task import StagePlan
from dira_scale.planning.ledger import Collective, Ledger, Moment
from dira_scale.planning.network import Networks, size, trained
from dira_scale.pretraining.config import Pretrain
from dira_scale.pretraining.objective import PretrainLosses
from dira_scale.pretraining.task import PretrainTask


class Block(NamedTuple):
    """One of the blocks that ``fsdp2`` cuts and activation checkpointing recomputes."""

    size: int  # bytes of its parameters
    learning: int  # forward passes with gradient in a step
    looking: int  # and without, as those of a momentum network


@dataclass(frozen=True)
class Rehearsal:
    """What one rank would hold, compute and send in a step. Bytes, of the whole networks unless a strategy cuts them.

    Attributes:
        images: of the rank's part of the batch.
        trained: parameters of the generator that the stage trains; their gradients are as large.
        idle: those that other stages train.
        momentum: those that none trains, which follow others.
        buffers: queue, running statistics.
        optimizer: states of the generator's.
        adversary: the discriminator with gradients and optimizer states.
        learning, updating: live bytes, operation by operation, beside all of the above, in forward and backward passes
            (the discriminator's too) and while the optimizer steps.
        forward, backward: floating-point operations (a multiplication and an addition are two).
        collectives: what method and BatchNorm send, and the discriminator's gradients.
        blocks: of all networks.
    """

    images: int
    trained: int
    idle: int
    momentum: int
    buffers: int
    optimizer: int
    adversary: int
    learning: list[Moment]
    updating: list[Moment]
    forward: int
    backward: int
    collectives: list[Collective]
    blocks: list[Block]

    @property
    def resting(self) -> int:
        """Bytes of parameters that get no gradient."""
        return self.idle + self.momentum

    @property
    def activations(self) -> float:
        """Largest number of bytes alive beside networks, gradients and states."""
        return max(moment.others for moment in self.learning)

    def at(self, images: float, other: "Rehearsal") -> "Rehearsal":
        """The bytes that ``images`` would take: every moment's on the line through this and ``other``'s images."""
        share = (images - self.images) / (other.images - self.images)

        def line(these: list[Moment], those: list[Moment]) -> list[Moment]:
            pairs = zip(these, those, strict=True)
            return [Moment(a.gradients, a.others + (b.others - a.others) * share) for a, b in pairs]

        learning, updating = line(self.learning, other.learning), line(self.updating, other.updating)
        return replace(self, learning=learning, updating=updating)


def rehearse(config: Pretrain, networks: Networks, stage: StagePlan, images: int, foreach: bool = True) -> Rehearsal:
    """Go through a step of ``stage`` on a rank's ``images`` in ``parallel.accumulate`` micro-batches.

    A step at which the monitors look, which takes the most memory. ``foreach``: the optimizer goes over all parameters
    at once, with temporaries as large, as torch does on GPUs and not on CPUs.
    """
    method, adversary, accumulate = networks.method, networks.adversary, config.parallel.accumulate
    alone: Any = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0)
    world = World(alone, config.precision)
    passes = [_Passes(block) for block in blocks(method)]
    with networks.mode:
        task = _Task(config, world, method, adversary, [stage])
        task.monitor_every = 1

        def make(module: nn.Module) -> Optimizer:
            return _started(optim.stage_optimizer(config.optim, module, config.data.batch), foreach)

        model = _Model(world, method, lambda module: task.prepare(stage, module), make, {})
        judge = _started(task.replicas[0].optimizer, foreach)
        batch, buffers = networks.batch(images), [*method.buffers(), *task.objective.distort.buffers()]
        ledger = model.ledger = task.ledger = Ledger(trained(method))
        ledger.know([*method.parameters(), *buffers, *adversary.parameters()])
        ledger.know([*_states(model.optimizer), *_states(judge)])
        step = Step(task, stage, model, _Guard(world.device), LossScale(False), Means(), config.seed, accumulate)
        with ledger:
            step(0, batch)
    for one in passes:
        one.close()
    return Rehearsal(
        images=images,
        trained=size(ledger.watched),
        idle=size(networks.ever_trained) - size(ledger.watched),
        momentum=size(method.parameters()) - size(networks.ever_trained),
        buffers=size(buffers),
        optimizer=size(_states(model.optimizer)),
        adversary=size(adversary.parameters()) + size(_states(judge)),
        learning=ledger.moments[: model.turn] + ledger.moments[model.over :],
        updating=ledger.moments[model.turn : model.over],
        forward=task.forward,
        backward=ledger.flops - task.forward - task.looking,
        collectives=ledger.collectives,
        blocks=[Block(size(one.block.parameters()), one.learning, one.looking) for one in passes],
    )


class _Model(StageModel):
    """One of many ranks' replicas; notes where in the ledger the optimizer's step lies."""

    ledger: Ledger
    turn = over = 0

    def gradients(self) -> list[Tensor]:
        self.turn = len(self.ledger.moments)
        return super().gradients()

    def step(self) -> None:
        super().step()
        self.over = len(self.ledger.moments)


class _Task(PretrainTask):
    """Pretraining; tells the arithmetic of forward passes and of monitors from the rest, the backward passes."""

    ledger: Ledger
    forward = looking = 0

    def losses(self, stage: StagePlan, model: nn.Module, micro: Batch) -> PretrainLosses:
        before = self.ledger.flops
        losses = super().losses(stage, model, micro)
        self.forward += self.ledger.flops - before
        return losses

    def monitor(self, losses: PretrainLosses, scale: float, differentiable: bool) -> dict[str, Tensor]:
        """The memory that it takes counts; arithmetic and messages of one step in hundreds do not."""
        flops, sent = self.ledger.flops, len(self.ledger.collectives)
        found = super().monitor(losses, scale, differentiable)
        self.looking += self.ledger.flops - flops
        del self.ledger.collectives[sent:]
        return found


class _Guard(NaNGuard):
    """Clears gradients without looking first, as on a GPU: there are no values to look at."""

    def _must_clear(self) -> bool:
        return True


class _Passes:
    """Counts the forward passes through a block, recomputed ones left out."""

    def __init__(self, block: torch.nn.Module) -> None:
        self.block, self.learning, self.looking = block, 0, 0
        self._hook = block.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        if torch.is_grad_enabled():
            self.learning += 1
        else:
            self.looking += 1

    def close(self) -> None:
        self._hook.remove()


def _started(optimizer: Optimizer, foreach: bool) -> Optimizer:
    """``optimizer`` after a first step, in which it makes its states."""
    for group in optimizer.param_groups:
        if "foreach" in group:
            group["foreach"] = foreach
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def _states(optimizer: Optimizer) -> list[Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
