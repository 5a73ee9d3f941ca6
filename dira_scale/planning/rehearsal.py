"""One optimizer step of a stage, gone through without memory or data: bytes, arithmetic, messages."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from dira_scale.data.batch import Batch
from dira_scale.engine import optim
from dira_scale.engine.parallel.recompute import blocks
from dira_scale.models.norm import commit_statistics
from dira_scale.planning.ledger import Collective, Ledger, Moment
from dira_scale.planning.network import Networks, size, trained
from dira_scale.pretraining.config import Pretrain
from dira_scale.pretraining.monitors import Health
from dira_scale.pretraining.objective import Objective
from dira_scale.pretraining.stages import Stage


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


def rehearse(config: Pretrain, networks: Networks, stage: Stage, images: int, foreach: bool = True) -> Rehearsal:
    """Go through a step of ``stage`` on a rank's ``images`` in ``parallel.accumulate`` micro-batches.

    A step at which the health monitors look, which takes the most memory. ``foreach``: the optimizer goes over all
    parameters at once, with temporaries as large, as torch does on GPUs and not on CPUs.
    """
    method, adversary = networks.method, networks.adversary
    method.enter_stage(stage.terms)
    health = Health(method, adversary, every=1, accumulate=config.parallel.accumulate)
    ledger = Ledger(trained(method))
    passes = [_Passes(block) for block in blocks(method)]
    with networks.mode:
        objective = Objective(method, adversary, networks.views, torch.device("cpu"), config.precision)
        optimizer = _started(optim.generator(config.optim, method, config.data.batch), foreach)
        judge = optim.build(config.optim.discriminator, list(adversary.parameters()), "optim.discriminator")
        judge = _started(judge, foreach)
        batch = networks.batch(images)
        ledger.know([*method.parameters(), *method.buffers(), *adversary.parameters(), *objective.distort.buffers()])
        ledger.know([*_states(optimizer), *_states(judge)])
        step = _Step(config, objective, stage, health, ledger)
        with ledger:
            pairs = step.generator(batch)
            turn = len(ledger.moments)
            get_total_norm([p.grad for p in ledger.watched if p.grad is not None])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            over = len(ledger.moments)
            step.discriminator(pairs, judge)
            commit_statistics(method)
            method.after_step()
    for one in passes:
        one.close()
    health.close()
    return Rehearsal(
        images=images,
        trained=size(ledger.watched),
        idle=size(networks.ever_trained) - size(ledger.watched),
        momentum=size(method.parameters()) - size(networks.ever_trained),
        buffers=size(method.buffers()) + size(objective.distort.buffers()),
        optimizer=size(_states(optimizer)),
        adversary=size(adversary.parameters()) + size(_states(judge)),
        learning=ledger.moments[:turn] + ledger.moments[over:],
        updating=ledger.moments[turn:over],
        forward=step.forward,
        backward=step.backward,
        collectives=ledger.collectives,
        blocks=[Block(size(one.block.parameters()), one.learning, one.looking) for one in passes],
    )


class _Step:
    """The training loop's step (:class:`dira_scale.engine.step.Step`) without what takes no memory."""

    def __init__(self, config: Pretrain, objective: Objective, stage: Stage, health: Health, ledger: Ledger) -> None:
        self.objective, self.stage, self.health, self.ledger = objective, stage, health, ledger
        self.accumulate = config.parallel.accumulate
        self.forward = self.backward = 0

    def generator(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        pairs: list[tuple[Tensor, Tensor]] = []
        for i, micro in enumerate(batch.to("cpu").split(self.accumulate)):
            looking = self.health.due(0, i == self.accumulate - 1)
            before = self.ledger.flops
            terms, losses = self.objective(self.objective.method, micro, self.stage)
            self.forward += self.ledger.flops - before
            if looking:  # the memory that it takes counts, the messages of one step in hundreds do not
                sent = len(self.ledger.collectives)
                self.health.measure(terms, losses)
                del self.ledger.collectives[sent:]
            before = self.ledger.flops
            (losses["loss"] / self.accumulate).backward()
            self.backward += self.ledger.flops - before
            if "ad" in self.stage.terms:
                assert terms.restored is not None and terms.target is not None
                pairs.append((terms.target, terms.restored.detach()))
            del terms, losses
        return pairs

    def discriminator(self, pairs: list[tuple[Tensor, Tensor]], optimizer: Optimizer) -> None:
        before = self.ledger.flops
        for real, fake in pairs:
            self.objective.adversary.discriminator_loss(real, fake).backward()
        self.backward += self.ledger.flops - before
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


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
