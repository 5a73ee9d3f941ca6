"""What the engine trains: a task, its stages, and what a step of it gives.

The engine decides the order of operations in a step (``step.py``), when a stage begins and ends, and what is written. A
task decides everything else. Pretraining is one (``dira_scale.pretraining``).
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dira_scale.engine import optim
from dira_scale.runs.folder import RunFolder


class Batch(Protocol):
    """One rank's samples of a step."""

    def to(self, device: torch.device) -> Self: ...

    def split(self, n: int) -> Sequence[Self]:
        """``n`` equal micro-batches, in order."""
        ...


class Loader(Protocol):
    """Batches by step; ``waited``: seconds that the engine has stood waiting for them."""

    waited: float

    def iterate(self, start_step: int, stop_step: int) -> Generator[Any, None, None]:
        """This rank's batches of the steps from ``start_step`` up to, not including, ``stop_step``."""
        ...


@dataclass(frozen=True)
class StagePlan:
    """One stage in optimizer steps.

    Attributes:
        name: as metrics, pointers and pictures call it.
        batch: global.
        steps: if it does not stop early; at least one.
        per_epoch: steps of an epoch at this batch.
        terms: of the loss, for the task.
        warmup: the first steps, over which the rate rises.
        patience: epochs without a lower validation loss after which the stage ends; None is never.
    """

    name: str
    batch: int
    steps: int
    per_epoch: int
    terms: tuple[str, ...] = ()
    warmup: int = 0
    patience: int | None = None

    def rate(self, config: optim.Optim, initial: float, step: int) -> float:
        """Rate of the stage's ``step``-th step in a group that began with ``initial``."""
        return optim.learning_rate(config.schedule, initial, step, self.steps, self.per_epoch, self.warmup, config.end)

    def order_start(self, before: "StagePlan", consumed: int) -> int:
        """Where this stage's order begins when ``before`` has consumed ``consumed`` steps of its own: there, as stages
        of one batch share an order; or with another batch at the next whole epoch, so that no sample is drawn twice
        alike."""
        if self.batch == before.batch:
            return consumed
        return -(-consumed // before.per_epoch) * self.per_epoch


@dataclass
class Losses:
    """A micro-batch's forward pass. All tensors are 0-dim means over the micro-batch."""

    total: Tensor  # what is differentiated
    terms: Mapping[str, Tensor]  # its parts by name, unweighted
    monitors: Mapping[str, Tensor] = field(default_factory=dict)  # detached
    carried: Any = None  # what the replicas learn from after the step; detached

    def values(self) -> dict[str, Tensor]:
        """As they are logged: ``loss``, ``loss/TERM``."""
        return {"loss": self.total} | {f"loss/{name}": value for name, value in self.terms.items()}


class Replica(Protocol):
    """A small module that every rank has whole, with an optimizer and a step of its own after the main one's.

    The task's total loss may run through it, by frozen parameters: it gets no gradient from that.
    """

    @property
    def name(self) -> str:
        """Of its loss, and of its tensors in a checkpoint."""
        ...

    @property
    def module(self) -> nn.Module: ...

    @property
    def optimizer(self) -> Optimizer: ...

    def loss(self, carried: Any) -> Tensor | None:
        """Of one micro-batch's ``Losses.carried``; None, for all of them and on all ranks, in stages that do not train
        it."""
        ...


@dataclass(frozen=True)
class Stretch:
    """Where in a stage a row of metrics was made."""

    stage: str
    steps: int  # of the stage, if it does not stop early
    done: int  # of these

    @property
    def share(self) -> float:
        """Of the stage that is done."""
        return self.done / self.steps


class Task(Protocol):
    """What is trained. Every process has one and calls all of its methods in the same order.

    Whoever builds it calls ``preflight.check_alike`` before the first collective. ``validate``, ``finish`` and
    ``first_broken`` call ``watchdog.alive`` for every batch; a step does so by itself.

    Strategies may cut ``module``, copy it, or gather it elsewhere, so its methods are given the module to work on and
    keep none of them.

    Attributes:
        module: whole, on the CPU, as it is when the run begins.
        stages: those that are trained, in order.
        replicas: small modules beside it.
        optim: optimizer, groups, schedule and clipping of the module.
        look_every: steps between two calls of ``look``.
        validate_every: epochs between two calls of ``validate``; None where nothing is held out.
    """

    look_every: int
    validate_every: int | None

    @property
    def module(self) -> nn.Module: ...

    @property
    def stages(self) -> Sequence[StagePlan]: ...

    @property
    def replicas(self) -> Sequence[Replica]: ...

    @property
    def optim(self) -> optim.Optim: ...

    def identity(self) -> dict[str, Any]:
        """What makes the run what it is beside its configuration: the content of its data."""
        ...

    def summary(self, module: nn.Module) -> list[str]:
        """Lines for a person at the start: what is trained, on what."""
        ...

    def fitting(self) -> list[int]:
        """The numbers of processes over which every stage divides."""
        ...

    def prepare(self, stage: StagePlan, module: nn.Module) -> nn.Module:
        """Leave ``requires_grad`` to what ``stage`` trains; what is called in training: ``module``, or one around it.

        It returns a tensor, or a dataclass whose fields are tensors or dicts of tensors where they carry gradient.
        """
        ...

    def loader(self, stage: StagePlan) -> Loader:
        """Training batches of this rank."""
        ...

    def losses(self, stage: StagePlan, model: nn.Module, micro: Any) -> Losses:
        """The forward pass of a micro-batch on the device, in training; ``model`` is what ``prepare`` has returned, as
        the strategy calls it."""
        ...

    def look(self, losses: Any, scale: float, differentiable: bool) -> dict[str, Tensor]:
        """Monitors that cost more, by name, 0-dim; before the backward pass of ``losses``.

        ``scale``: fp16's factor of losses. ``differentiable``: whether the strategy lets losses be differentiated
        before its own backward pass.
        """
        ...

    def after_step(self, module: nn.Module) -> None:
        """Once per optimizer step: momentum networks, queues."""
        ...

    def set_progress(self, module: nn.Module, share: float) -> None:
        """Before each step: ``share`` of the stage is done, 0 to 1."""
        ...

    def validate(self, stage: StagePlan, module: nn.Module) -> dict[str, float]:
        """Means over the held-out samples, the same on all ranks; ``loss`` decides which checkpoint is best."""
        ...

    def finish(self, stage: StagePlan, run: RunFolder | None, replica: Callable[[], nn.Module]) -> None:
        """At the end of a stage: pictures and the like. ``replica()`` gives the whole module; all ranks call it, or
        none. ``run`` is the main process's."""
        ...

    def diagnose(self, row: Mapping[str, Any], where: Stretch) -> list[str]:
        """What begins to go wrong with this row of metrics, in words."""
        ...

    def first_broken(self, stage: StagePlan, module: nn.Module) -> tuple[Any, dict[str, float]] | None:
        """This rank's first held-out batch with a loss that is not finite, as its loader made it, and the losses."""
        ...

    def save_batch(self, folder: Path, batch: Any, held_out: bool, row: dict[str, Any]) -> None:
        """Write a batch that broke, for a person to look at, and ``row`` beside it as ``batch.json``."""
        ...
