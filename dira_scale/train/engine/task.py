"""The interfaces of what the engine trains: a task, its stages, and the losses of a step.

The engine decides the order of operations in a step (``step.py``), when a stage begins and ends, and what is written. A
task decides everything else. Pretraining is one (``dira_scale.pretrain``).
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dira_scale.train.engine import optim
from dira_scale.train.runs.description import Best, Description, Tensors
from dira_scale.train.runs.folder import RunFolder


class TaskBatch(Protocol):
    """One rank's samples of a step."""

    def split(self, n: int) -> Sequence[Self]:
        """``n`` equal micro-batches, in order, as stored."""

    def to(self, device: torch.device) -> Self:
        """Return the batch as the task computes with it: on the device, and in floating point."""

    def tensors(self) -> Sequence[Tensor]:
        """All of them, always in one order."""

    def held(self, device: torch.device) -> Self:
        """Return a copy with memory of its own on the device, numbers too, whose content :meth:`fill` replaces."""

    def fill(self, batch: Self) -> None:
        """Copy another ``batch`` of the same shapes into this one."""


class TaskLoader(Protocol):
    """Batches by step."""

    def seconds(self) -> Mapping[str, float]:
        """So far, by part; ``wait``: what the engine has waited for batches."""

    def iterate(self, start_step: int, stop_step: int) -> Generator[Any, None, None]:
        """This rank's batches of the steps from ``start_step`` to ``stop_step``, exclusive."""


@dataclass(frozen=True)
class StagePlan:
    """One stage in optimizer steps."""

    name: str  # in metrics, pointers and pictures
    batch: int  # global batch
    steps: int  # unless it ends early; at least one
    per_epoch: int  # steps per epoch at this batch
    terms: tuple[str, ...] = ()  # of the loss, for the task
    warmup: int = 0  # steps over which the rate rises
    span: tuple[int, int] | None = None  # of ``optim.span=run``: steps of this batch before it, in all
    period: int | tuple[int, ...] = 1  # steps after which ``optim.schedule=step`` lowers it: again and again, or these
    size: int | None = None  # of its views, as ``ViewSpec.resized`` has it; None: that of the run
    patience: int | None = None  # epochs without a lower validation loss after which the stage ends; None: never

    def rate(self, config: optim.Optim, initial: float, step: int) -> float:
        """Rate at step ``step`` of the stage, in a group whose initial rate is ``initial``."""
        before, steps = self.span or (0, self.steps)
        rate = optim.learning_rate(
            config.schedule, initial, before + step, steps, self.per_epoch, 0 if self.span else self.warmup,
            config.end, config.factor, self.period,
        )  # fmt: skip
        return rate * step / self.warmup if self.span and step < self.warmup else rate

    def decay(self, end: float, initial: float, step: int) -> float:
        """Weight decay at step ``step`` of the stage: from ``initial`` to ``end`` by half a cosine (DINO)."""
        before, steps = self.span or (0, self.steps)
        return optim.learning_rate("cosine", initial, before + step, steps, self.per_epoch, end=end / initial)

    def order_start(self, before: "StagePlan", consumed: int) -> int:
        """Return the step where this stage's order begins, after stage ``before`` has used its own up to ``consumed``.

        With the same batch at that step, as both stages share an order. With another batch at the next whole epoch, so
        that no sample is drawn twice in the same way.
        """
        if self.batch == before.batch:
            return consumed
        return -(-consumed // before.per_epoch) * self.per_epoch


@dataclass
class Losses:
    """A micro-batch's forward pass. All tensors are 0-dim means over the micro-batch."""

    total: Tensor  # what is differentiated
    terms: Mapping[str, Tensor]  # its parts by name, unweighted
    monitors: Mapping[str, Tensor] = field(default_factory=dict)  # detached
    deferred: Sequence[Callable[[], Mapping[str, Tensor]]] = ()  # more monitors, called after the step
    carried: Any = None  # input of the side modules' losses after the step; detached

    def values(self) -> dict[str, Tensor]:
        """The losses by their names in metrics: ``loss``, ``loss/TERM``."""
        return {"loss": self.total} | {f"loss/{name}": value for name, value in self.terms.items()}


class SideModule(Protocol):
    """A small unsharded module on every rank, with its own optimizer, stepped after the main module.

    The task's total loss may pass through it, but gives its parameters no gradient.
    """

    @property
    def name(self) -> str:
        """Name of its loss, and prefix of its tensors in a checkpoint."""

    @property
    def module(self) -> nn.Module: ...

    @property
    def optimizer(self) -> Optimizer: ...

    def loss(self, carried: Any) -> Tensor | None:
        """The loss for one micro-batch's ``Losses.carried``; None, for all micro-batches and ranks, in stages that do
        not train it."""


@dataclass(frozen=True)
class StagePosition:
    """The progress of a stage when a row of metrics was written."""

    stage: str
    steps: int  # of the stage, unless it ends early
    done: int  # steps so far

    @property
    def fraction(self) -> float:
        return self.done / self.steps


class StepTask(Protocol):
    """The part of a task that an optimizer step needs; the planner rehearses it, without data.

    Strategies may shard ``module``, copy it, or gather it elsewhere. So methods get the module to work on as an
    argument, and must not keep it.

    Attributes:
        module: unsharded, on the CPU, in its initial state.
        side_modules: small modules beside it.
        optim: optimizer, groups, schedule and clipping of the module.
        monitor_every: steps between two calls of ``monitor``.
    """

    @property
    def monitor_every(self) -> int: ...

    @property
    def module(self) -> nn.Module: ...

    @property
    def side_modules(self) -> Sequence[SideModule]: ...

    @property
    def optim(self) -> optim.Optim: ...

    def prepare(self, stage: StagePlan, module: nn.Module) -> nn.Module:
        """Set ``requires_grad`` for ``stage``. Returns what training calls: ``module``, or a wrapper around it.

        Its output is a tensor, or a dataclass whose fields with gradient are tensors or dicts of tensors.
        """

    def losses(self, stage: StagePlan, model: nn.Module, micro: Any) -> Losses:
        """The forward pass of a micro-batch, which is on the device. ``model`` is what ``prepare`` has returned,
        wrapped by the strategy."""

    def monitor(self, losses: Any, scale: float, differentiable: bool) -> dict[str, Tensor]:
        """Expensive monitors by name, 0-dim; called before the backward pass of ``losses``.

        ``scale``: fp16's loss scale. ``differentiable``: whether the strategy allows differentiating losses before its
        own backward pass.
        """

    def after_step(self, module: nn.Module) -> None:
        """Called after every optimizer step: momentum networks, queues."""


class Detail(str):
    """A line on a run that goes into log.txt alone: nothing in it asks for anything to be done."""


class TaskData(Protocol):
    def identity(self) -> dict[str, Any]:
        """Return what identifies the run beside its configuration: the content of its data."""

    def loader(self, stage: StagePlan) -> TaskLoader:
        """Training batches of this rank."""

    def save_batch(self, folder: Path, batch: Any, held_out: bool, row: dict[str, Any]) -> None:
        """Write a batch with a bad loss or gradient for inspection, and ``row`` beside it as ``batch.json``."""


class Validation(Protocol):
    """Held-out samples (``dira_scale.train.validation`` has one for any task). Calls ``watchdog.alive`` for every
    batch."""

    @property
    def every(self) -> int:
        """Epochs between two validations."""

    @property
    def best(self) -> Best:
        """The figure that decides which checkpoint is best, and whether a stage ends early."""

    def means(self, stage: StagePlan, module: nn.Module) -> dict[str, float]:
        """Means over the held-out samples, the same on all ranks."""

    def first_broken(self, stage: StagePlan, module: nn.Module) -> tuple[Any, dict[str, float]] | None:
        """This rank's first held-out batch with a loss that is not finite, as loaded, and its losses."""


class Task(StepTask, Protocol):
    """A task that the engine trains. Every process has one and calls all of its methods in the same order.

    Whoever builds it calls ``preflight.check_alike`` before the first collective. ``finish`` calls ``watchdog.alive``
    for every batch; a step does so itself.

    Attributes:
        stages: the stages to train, in order.
        validation: None without held-out samples.
        tensors: names of the module's tensors in checkpoints. A side module's begin with its own name.
        unit: what throughput counts, such as images.
    """

    @property
    def stages(self) -> Sequence[StagePlan]: ...

    @property
    def data(self) -> TaskData: ...

    @property
    def validation(self) -> Validation | None: ...

    @property
    def tensors(self) -> Tensors: ...

    @property
    def unit(self) -> str: ...

    def describe(self, config: dict[str, Any]) -> Description:
        """Describe the run, whose recorded configuration is ``config``, for its readers. Called on the main process."""

    def identity(self) -> dict[str, Any]:
        """Return what identifies the run beside its configuration and data, such as versions of algorithms."""

    def summary(self, module: nn.Module) -> list[str]:
        """Lines to print at the start: what is trained, on what data, what to act on; and ``Detail``s."""

    def process_counts(self) -> list[int]:
        """The numbers of processes among which every stage can be divided."""

    def set_progress(self, module: nn.Module, share: float) -> None:
        """Called before every step: ``share`` of the stage is done, 0 to 1."""

    def before_validation(self, stage: StagePlan, module: nn.Module) -> None:
        """Called where a validation is due, also without held-out samples: what the weights are to be judged with."""

    def finish(self, stage: StagePlan, run: RunFolder | None, unsharded: Callable[[], nn.Module]) -> Sequence[str]:
        """Called at the end of a stage, for pictures and the like. Returns lines that the main process prints.

        ``unsharded()`` returns the complete module; all ranks must call it, or none. ``run`` is None except on the
        main process.
        """

    def diagnose(self, row: Mapping[str, Any], position: StagePosition) -> list[str]:
        """Warnings about problems that begin with this row of metrics."""
