"""A stage in training, and one optimizer step of it: the passes of the micro-batches, then the steps of all modules."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from dira_scale.base.machine.graphs import launch
from dira_scale.train.distributed.collectives import rank, world
from dira_scale.train.distributed.config import EXACT, FAST
from dira_scale.train.distributed.precision import LossScale
from dira_scale.train.engine.graph import Recorder, updating
from dira_scale.train.engine.means import Means
from dira_scale.train.engine.nan_guard import GRADIENT, NaNGuard
from dira_scale.train.engine.parallel.model import GradientMeans, StageModel
from dira_scale.train.engine.profiler import BACKWARD, DATA, FORWARD, OPTIMIZER, span
from dira_scale.train.engine.state import RunState
from dira_scale.train.engine.task import SideModule, StagePlan, StepTask, Task, TaskBatch, TaskLoader
from dira_scale.train.engine.watchdog import alive
from dira_scale.train.models.drop_path import part_of_batch
from dira_scale.train.models.norm import RunningStatistics


@dataclass
class Step:
    """The steps of one stage. Nothing here waits for the device, except under fp16."""

    task: StepTask
    stage: StagePlan
    model: StageModel  # the task's module under its strategy, created for this stage
    guard: NaNGuard  # records what is not finite
    scale: LossScale  # fp16's
    means: Means  # collects losses and monitors
    seed: int  # of the run
    accumulate: int  # micro-batches per step
    device: torch.device
    attention: str = EXACT  # parallel.attention
    recorder: Recorder | None = None  # replays steps

    @cached_property
    def unordered(self) -> bool:
        return self.attention != FAST and adds_in_any_order(self.model.module, self.device)

    @cached_property
    def number(self) -> Tensor:
        """Return the step's number, from 0, on the device."""
        return torch.zeros((), dtype=torch.int64, device=self.device)

    @cached_property
    def statistics(self) -> RunningStatistics:
        return RunningStatistics(self.model.module)

    def __call__(self, step: int, batch: TaskBatch) -> None:
        """Take step number ``step`` (from 0) on this rank's ``batch``."""
        alive()
        self.number.fill_(step)
        self._seed(step)
        due = step % self.task.monitor_every == 0
        if self.recorder is None:
            monitors, *added = self._take(step, due, batch)
        else:
            watched = due or self.recorder.begins
            monitors, *added = self.recorder(batch, watched, partial(self._take, step, watched))
        for values in (monitors, *added) if due else added:
            self.means.add(values)

    def _seed(self, step: int) -> None:
        digest = hashlib.blake2b(repr((self.seed, step)).encode(), digest_size=8).digest()
        torch.manual_seed(int.from_bytes(digest, "little") >> 1)  # of 63 bits

    def _take(self, step: int, watched: bool, batch: TaskBatch) -> list[Mapping[str, Tensor]]:
        """Take the step; return monitors, of which there are some if it is ``watched``, and all else that metrics are
        means of. What differs from step to step is on the device, or in what a recording launches."""
        task, model, last = self.task, self.model, self.accumulate - 1
        added: list[Mapping[str, Tensor]] = []
        carried: list[Any] = []
        deferred: list[Callable[[], Mapping[str, Tensor]]] = []
        monitors: dict[str, Tensor] = {}
        for i, stored in enumerate(batch.split(self.accumulate)):
            if i:
                alive()
                self._seed(step)  # each draws for the whole batch
            with span(DATA):
                micro = stored.to(self.device)  # one at a time: in floating point it takes four times the memory
            part = part_of_batch(rank() * self.accumulate + i, world() * self.accumulate)
            with model.accumulating(i == last), part:
                with span(FORWARD):
                    losses = task.losses(self.stage, model.wrapped, micro)
                values = losses.values()
                factor = self.guard.losses(self.number, values)
                with one_order(self.unordered), span(BACKWARD):
                    if i == last and watched:
                        monitors = task.monitor(losses, self.scale.value, model.differentiable)
                    model.backward(losses.total * factor * (self.scale.value / self.accumulate))
            added.append({name: value.detach() for name, value in (values | dict(losses.monitors)).items()})
            carried.append(losses.carried)
            deferred += losses.deferred
            del losses, values  # free before the next forward pass
        with span(OPTIMIZER):
            averaged = model.averaging()  # gradients are on their way while side modules learn
            updates = [self._judged_side(side, carried, added) for side in task.side_modules]
            updates.append(self._judged(averaged(), monitors, added))
            launch(lambda: [update() for update in updates])
            self.statistics.commit()
            task.after_step(model.module)
        return [monitors, *added, *(measure() for measure in deferred)]

    def _judged(
        self, gradients: list[Tensor], monitors: dict[str, Tensor], added: list[Mapping[str, Tensor]]
    ) -> Callable[[], None]:
        """Judge and clip the module's gradients; return its optimizer's step. ``monitors`` are dropped if fp16 skips
        it."""
        self.scale.unscale(gradients)
        norm = self.model.norm(gradients)
        if self.scale.skips(norm):
            monitors.clear()
            return self.model.skip
        added.append({"gradient_norm": norm})
        self.guard.gradients(self.number, gradients, norm, self.model.optimizer if self.model.fuses else None)
        clip = self.task.optim.clip
        if clip is not None and gradients:
            factor = (clip / (norm + 1e-6)).clamp(max=1.0)  # NaN where the guard keeps the gradients out
            torch._foreach_mul_(gradients, factor.nan_to_num(0.0).to(gradients[0].device))
        return updating(self.model.module, self.model.step)

    def _judged_side(
        self, side: SideModule, carried: list[Any], added: list[Mapping[str, Tensor]]
    ) -> Callable[[], None]:
        """Differentiate a side module's mean loss of its micro-batches, with gradients averaged over ranks; return its
        step."""
        for part in carried:
            loss = side.loss(part)
            if loss is None:
                return lambda: None
            values = {f"loss/{side.name}": loss}
            factor = self.guard.losses(self.number, values)
            (loss * factor / len(carried)).backward()
            added.append({name: value.detach() for name, value in values.items()})
        gradients = GradientMeans(side.module).wait()
        norm, name = get_total_norm(gradients), f"{GRADIENT} of the {side.name}"
        self.guard.gradients(self.number, gradients, norm, side.optimizer, name)

        def step() -> None:
            side.optimizer.step()
            side.optimizer.zero_grad(set_to_none=True)

        return updating(side.module, step)


@dataclass(frozen=True)
class StageRun:
    """A stage in training: created when the stage begins and dropped when it ends."""

    plan: StagePlan
    model: StageModel
    loader: TaskLoader
    guard: NaNGuard
    step: Step

    def set_pace(self, task: Task, state: RunState) -> None:
        """Set the learning rates and weight decay of the next step, and the stage's progress."""
        done = state.step - state.stage_start
        progress = done / self.plan.steps
        task.set_progress(self.model.module, progress)
        for group in self.model.optimizer.param_groups:
            group["lr"] = group["initial_lr"]
            if progress < group["frozen"]:
                group["lr"] = 0.0  # as DINOv2: without gradients, moments would forget their scale
            elif not group["fixed_rate"]:
                group["lr"] = self.plan.rate(task.optim, group["initial_lr"], done) * state.rate_factor
            if (end := task.optim.weight_decay_end) is not None and group["initial_decay"]:
                group["weight_decay"] = self.plan.decay(end, group["initial_decay"], done)

    def ended_early(self, state: RunState) -> bool:
        """Return whether the held-out figure has not improved for the stage's ``patience`` epochs."""
        return self.plan.patience is not None and state.stale >= self.plan.patience


def adds_in_any_order(module: nn.Module, device: torch.device) -> bool:
    """Return whether the backward pass of ``module`` adds in another order each time: fused attention's does, on a GPU.

    Convolutions do not: ``train.distributed.processes.start`` selects cuDNN's deterministic algorithms.
    """
    return device.type == "cuda" and any(getattr(part, "fused_attn", False) for part in module.modules())


@contextmanager
def one_order(wanted: bool) -> Iterator[None]:
    """A backward pass within adds in one order, if ``wanted``: torch's fused attention then takes turns.

    torch's switch is for the whole process. An operation that has no such algorithm raises RuntimeError and names
    itself; ``tests/train/engine/test_determinism.py`` shows that our networks have none.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
