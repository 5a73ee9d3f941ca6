"""The training loop: stages, steps, validation, checkpoints. It knows nothing of images or of how processes start."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from dira_scale.data.inputs import Inputs
from dira_scale.distributed.long_work import gather_beside_training
from dira_scale.engine import optim, parallel, state
from dira_scale.engine.metrics_log import Journal
from dira_scale.engine.nan_stop import Alarm
from dira_scale.engine.progress import Bar
from dira_scale.engine.signals import Signals
from dira_scale.engine.step import Step
from dira_scale.engine.watchdog import Watchdog, alive
from dira_scale.methods.adversary import Adversary
from dira_scale.methods.method import Method
from dira_scale.pretraining.config import Pretrain
from dira_scale.pretraining.objective import Objective, restores
from dira_scale.pretraining.schedule import plan
from dira_scale.pretraining.stages import Stage, order_start
from dira_scale.pretraining.validation import draw_restorations, validation_losses
from dira_scale.runs import checkpoint, lease
from dira_scale.runs.folder import Run

T = TypeVar("T")


class Trainer:
    """Trains ``method`` through its stages.

    Args:
        adversary: its discriminator lives outside the method, replicated, with its own optimizer.
        run: the run folder, on the main process only.
    """

    def __init__(
        self,
        config: Pretrain,
        accelerator: Accelerator,
        inputs: Inputs,
        method: Method,
        adversary: Adversary,
        run: Run | None,
    ) -> None:
        self.config, self.accelerator, self.inputs, self.run = config, accelerator, inputs, run
        self.folder, rank, ranks = Path(config.run), accelerator.process_index, accelerator.num_processes
        self.device = accelerator.device
        self.strategy = parallel.build(config.parallel, config.precision, accelerator, method)
        layout = torch.channels_last if config.parallel.channels_last else torch.contiguous_format
        self.adversary = adversary.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.objective = Objective(self.method, self.adversary, inputs.views, self.device, config.precision)
        self.plans = plan(config, inputs.steps_per_epoch)
        self.stages = {name: config.stages[name] for name in self.plans}
        self.discriminator_optimizer = optim.build(
            config.optim.discriminator, list(adversary.parameters()), "optim.discriminator"
        )
        self.held_out = inputs.held_out(config.validate.batch, config.validate.batches, rank, ranks)
        self.lease = int(parallel.from_main(run.lease.number if run else 0))
        place, keep = checkpoint.place(self.folder, config.checkpoint.folder), config.checkpoint.keep
        guard = partial(lease.check, self.folder, self.lease)
        self.checkpointer = checkpoint.Checkpointer(
            place, keep, rank, ranks, self.lease, guard, gather_beside_training(), alive
        )
        self.progress = state.Progress()
        self._optimizer_state: dict[str, Tensor] = {}  # restored, until the stage's optimizer is made
        self._restore()
        self.journal = Journal(config, self.progress, run)
        self.clock = self.journal.clock
        self.alarm = Alarm(accelerator, self.checkpointer, inputs, self.folder, run)
        self.step = Step(config, self.objective, self.discriminator_optimizer, ranks, self.journal.means)
        if self.step.scale.enabled and self.progress.loss_scale is not None:
            self.step.scale.value, self.step.scale.sound = self.progress.loss_scale, self.progress.loss_scale_sound

    @property
    def method(self) -> Method:
        """The generator; of a sharded strategy another object in every stage."""
        return self.strategy.method

    # ------------------------------------------------------------------ the run

    def train(self, signals: Signals) -> str:
        """Train to the end, to ``steps`` or to a signal; returns ``done`` or ``interrupted``."""
        bar = Bar(self.total_steps(), self.progress.step, self.run is not None)
        signals.listen()
        with Watchdog(self.folder, self.lease, self.config.watchdog), bar:
            self.bar = self.journal.bar = bar
            ended = ""
            while self.progress.stage < len(self.stages):
                name, stage = list(self.stages.items())[self.progress.stage]
                self._enter_stage(name, stage)
                ended = self._run_stage(name, stage, signals)
                if ended:
                    break
                self._leave_stage(name)
            self.checkpointer.insist()
            return ended or "done"

    def close(self) -> None:
        """Bring what is being written to an end; nothing is written after this. On disks that hang it hangs."""
        self.checkpointer.settle()
        self.journal.close()

    def _run_stage(self, name: str, stage: Stage, signals: Signals) -> str:
        """Steps of one stage; returns why the run ends, or nothing where the next stage follows."""
        progress, last = self.progress, self.progress.stage_start + self.plan.steps
        limit = last if self.config.steps is None else min(last, self.config.steps)
        with closing(self.loader.iterate(progress.step + self._ahead, limit + self._ahead)) as batches:
            while not self._stopped_early(stage) and (batch := next(batches, None)) is not None:
                self._set_pace()
                self.step(progress.step, batch)
                progress.step += 1
                signal = self._after_step(name, stage, last, limit, signals)
                if signal:
                    self._finish()
                    self.checkpointer.insist()
                    self.bar.say(f"{signal}: checkpoint written at step {progress.step}")
                    return "interrupted"
        if progress.step < last and not self._stopped_early(stage):
            self._finish()
            return "done"  # as many steps as were asked for
        return ""

    def _after_step(self, name: str, stage: Stage, last: int, limit: int, signals: Signals) -> str:
        """Whatever is due: validation, a row, a checkpoint. Returns the signal that was received, if any."""
        step = self.progress.step
        improved = self._due_validation(last) and self.validate(name, stage)
        ends = step == limit or self._stopped_early(stage)
        if step % self.config.log_every == 0 or ends:
            self._refuse_nan()
            rate, news = self.strategy.optimizer.param_groups[0]["lr"], self.checkpointer.news()
            self.journal.training(rate, self.loader.waited, news)
        self.bar.update(step, name)
        signal = signals.agreed()
        if improved or signal or ends or step % self.config.checkpoint.every == 0:
            self.save()
        return signal

    # ------------------------------------------------------------------ validation

    def validate(self, name: str, stage: Stage) -> bool:
        """A row of the held-out losses; True where the loss is the stage's lowest so far."""
        if self.held_out is None:
            return False
        self._refuse_nan()
        with self.clock.part("validate"):
            row = validation_losses(self.objective, self.held_out, stage)
        self.alarm.held_out(self.progress.step, row, self.objective, self.held_out, stage)
        self.journal.add(row | {"split": "val"})
        progress = self.progress
        improved = row["loss"] < progress.best.get(name, float("inf"))
        progress.stale = 0 if improved else progress.stale + self.config.validate.every
        if improved:
            progress.best[name], progress.best_step[name] = row["loss"], progress.step
        return improved

    def _due_validation(self, last: int) -> bool:
        done = self.progress.step - self.progress.stage_start
        every = self.config.validate.every * self.plan.per_epoch
        return done % every == 0 or self.progress.step == last

    def _stopped_early(self, stage: Stage) -> bool:
        return stage.patience is not None and self.progress.stale >= stage.patience

    # ------------------------------------------------------------------ stages

    def total_steps(self) -> int:
        """At which step the run ends, if no stage from now on stops early."""
        ahead = list(self.plans.values())[self.progress.stage :]
        total = self.progress.stage_start + sum(stage.steps for stage in ahead)
        return total if self.config.steps is None else min(total, self.config.steps)

    def _enter_stage(self, name: str, stage: Stage) -> None:
        """Fresh optimizer and schedule; queue, momentum model and discriminator go on (as released)."""
        self.plan = self.plans[name]
        self.loader = self.inputs.train(self.plan.batch)
        self.journal.enter_stage(name, self.plan)
        self.step.leave_stage()
        make = partial(optim.generator, self.config.optim, batch=self.plan.batch)
        self.strategy.enter_stage(stage.terms, make, self._optimizer_state)
        self._optimizer_state = {}
        self.objective.method = self.method
        self.step.enter_stage(stage, self.strategy)
        self.bar.update(self.progress.step, name)

    def _leave_stage(self, name: str) -> None:
        if self._stopped_early(self.stages[name]):
            self.bar.say(f"stage {name}: validation stood still for {self.progress.stale} epochs, on to the next")
        if restores(self.stages[name]):
            self._restorations(name)
        self._finish()
        self._next_stage()
        self.bar.expect(self.total_steps())

    def _restorations(self, name: str) -> None:
        """Pictures and table of the weights at the stage's end, once, by the main process, of a bounded number."""
        validate = self.config.validate
        held_out = self.inputs.held_out(validate.batch, -(-validate.restored // validate.batch))
        folder, stage = self.folder / "pictures", self.stages[name]
        whole = self.objective.of(self.strategy.replica().to(self.device))
        if self.run is not None and held_out is not None and not (folder / f"{name}.png").exists():
            self.run.lease.check()
            with self.clock.part("validate"), self.run.spared("pictures"):
                draw_restorations(folder, name, whole, held_out, stage, validate.pictures)

    def _next_stage(self) -> None:
        progress = self.progress
        steps = progress.step - progress.stage_start
        progress.epochs += steps / self.plan.per_epoch
        progress.stage, progress.stage_start, progress.stale = progress.stage + 1, progress.step, 0
        for following in list(self.plans.values())[progress.stage : progress.stage + 1]:
            progress.order_start = order_start(self.plan, following, progress.order_start + steps)

    def _set_pace(self) -> None:
        """The step's rates, and how far through the stage it is."""
        step = self.progress.step - self.progress.stage_start
        self.method.progress = step / self.plan.steps
        for group in self.strategy.optimizer.param_groups:
            if not group["fixed_rate"]:
                group["lr"] = self.plan.rate(self.config.optim, group["initial_lr"], step)

    # ------------------------------------------------------------------ checkpoints

    def save(self) -> None:
        """A checkpoint of everything at this step, all of it numbers."""
        self._refuse_nan()
        with self.clock.part("checkpoint"):
            discriminator = state.discriminator(self.adversary, self.discriminator_optimizer)
            self.alarm.tensors(self.progress.step, self.strategy.held() | discriminator, self.device)
            pieces = self.strategy.pieces() | checkpoint.replicated(discriminator)
            if self.step.scale.enabled:
                self.progress.loss_scale, self.progress.loss_scale_sound = self.step.scale.value, self.step.scale.sound
            self.checkpointer.save(self.progress.step, pieces, asdict(self.progress), self.progress.best_step)

    def _refuse_nan(self) -> None:
        """End on all ranks before anything is written of what is no number; each keeps its part of the batch."""
        self.alarm.training(self.progress.step, self.step.guard, self.loader, self._ahead)

    @property
    def _ahead(self) -> int:
        """By how many steps the stage's order is ahead of the run's steps."""
        return self.progress.order_start - self.progress.stage_start

    def _finish(self) -> None:
        with self.clock.part("checkpoint"):
            self.checkpointer.wait()
            self.accelerator.wait_for_everyone()

    def stall(self) -> str:
        """How long training has stood still for its checkpoints."""
        saves, seconds = self.checkpointer.saves, self.clock.total.get("checkpoint", 0.0)
        return f"{saves} checkpoints, training stood still for {seconds / max(1, saves):.2f} s each"

    def _restore(self) -> None:
        """Go on from the newest whole checkpoint, the main process's choice; tidy up what a killed run left."""
        folder = self.checkpointer.folder
        name = parallel.from_main(self._patiently(lambda: self._tidy(folder)))
        if name is None:
            return
        tensors, progress = self._patiently(lambda: checkpoint.load(folder / name))
        self.progress = state.Progress(**progress)
        both = self.method, self.adversary
        self._optimizer_state = state.restore(tensors, *both, self.discriminator_optimizer)
        self._patiently(lambda: self._put_right(folder))

    def _patiently(self, work: Callable[[], T]) -> T:
        """``work`` on disks and stores that may be slow, or wrong on one process, which all then say alike."""
        return parallel.together(lambda: self.checkpointer.patiently(work))

    def _tidy(self, folder: Path) -> str | None:
        """On the main process: name of the checkpoint to go on from; damaged and half-written ones are out of the way
        after this."""
        if self.run is None:
            return None
        name, damaged = checkpoint.find_latest(folder)
        for bad, reason in damaged.items():
            self.run.log(f"refused {bad}: {reason}")
        self.run.lease.check()
        checkpoint.clear(folder, damaged)
        if name is None:
            self.run.forget_after(0)
        return name

    def _put_right(self, folder: Path) -> None:
        """On the main process: pointers and rows of the run agree with the checkpoint that it goes on from."""
        if self.run is not None:
            with checkpoint.reachable(folder):
                self.checkpointer.point(self.progress.step, self.progress.best_step)
            self.run.forget_after(self.progress.step)
