"""The training loop: stages, steps, validation, checkpoints."""

from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

from dira_scale.train.distributed import flight_recorder
from dira_scale.train.distributed.control import broadcast_from_main, raise_on_all
from dira_scale.train.distributed.long_work import gather_beside_training
from dira_scale.train.distributed.precision import LossScale
from dira_scale.train.distributed.world import World
from dira_scale.train.engine import graph, optim, parallel
from dira_scale.train.engine.config import PLATEAU, Training
from dira_scale.train.engine.garbage import Garbage
from dira_scale.train.engine.metrics_log import MetricsLog
from dira_scale.train.engine.nan_guard import NaNGuard, NotFinite
from dira_scale.train.engine.nan_stop import NaNStop
from dira_scale.train.engine.profiler import CHECKPOINT, DATA, LOGGING, VALIDATION, Profiler, span
from dira_scale.train.engine.progress import Bar
from dira_scale.train.engine.signals import Signals
from dira_scale.train.engine.state import RunState, restore, side_module_tensors, stored
from dira_scale.train.engine.step import StageRun, Step
from dira_scale.train.engine.task import StagePlan, Task
from dira_scale.train.engine.watchdog import Watchdog, alive
from dira_scale.train.runs import checkpoint, lease
from dira_scale.train.runs.folder import RunFolder


class Loop:
    """Trains ``task`` through its stages, from the newest checkpoint if there is one.

    Only the main process has the folder ``run``.
    """

    def __init__(self, config: Training, task: Task, world: World, run: RunFolder | None) -> None:
        self.config, self.task, self.world, self.run, self.folder = config, task, world, run, Path(config.run)
        sides = (side.module for side in task.side_modules)
        self.strategy = parallel.build(world, config.parallel, task.module, sides)
        self.lease = int(broadcast_from_main(run.lease.number if run else 0))
        self.checkpointer = checkpoint.Checkpointer(
            checkpoint.locate_folder(self.folder, config.checkpoint.folder),
            config.checkpoint.keep,
            world.rank,
            world.ranks,
            self.lease,
            partial(lease.check, self.folder, self.lease),
            gather_beside_training(),
            alive,
        )
        self.state, self.stored = RunState(), False  # whether there is a checkpoint to resume from
        self._resumed: checkpoint.StoredTensors | None = None  # until the stage's optimizer has loaded its state
        self._resume()
        if not self.stored:
            raise_on_all(self._require_space)
        if run is not None:  # where it stands, also if nothing is left to do
            run.steps = self.total_steps()
            run.status("running", self.state.step, task.stages[min(self.state.stage, len(task.stages) - 1)].name)
        self.log = MetricsLog(task, self.state, run, config.tracker)
        self.nan_stop = NaNStop(world, task.data, self.checkpointer, self.folder, run)
        self.scale = LossScale(world.precision == "fp16")
        if self.scale.enabled and self.state.loss_scale is not None:
            self.scale.value, self.scale.finite_steps = self.state.loss_scale, self.state.loss_scale_sound

    # ------------------------------------------------------------------ the run

    def train(self, signals: Signals) -> str:
        """Train to the end, to ``steps`` or to a signal; returns ``done`` or ``interrupted``."""
        bar = Bar(self.total_steps(), self.state.step, self.run is not None)
        profiler = Profiler(self.config.profile, self.folder, self.lease, self.state.step, self.world.device)
        signals.listen()
        watchdog = Watchdog(self.folder, self.lease, self.config.watchdog, signals.lost, self.log.rescue_row)
        with watchdog, bar, profiler:
            self.bar = self.log.bar = bar
            self.profiler = profiler
            profiler.at(self.state.step)
            ended = ""
            try:
                while not ended and self.state.stage < len(self.task.stages):
                    ended = self._train_stage(self.task.stages[self.state.stage], signals)
            except BaseException:
                self.log.rescue_row()
                raise
            self.checkpointer.raise_if_not_saved()
            return ended or "done"

    def close(self) -> None:
        """Finish pending writes; nothing is written after this. Blocks on a disk that hangs."""
        self.checkpointer.finish_write()
        self.log.close()

    def _train_stage(self, plan: StagePlan, signals: Signals) -> str:
        """All steps of a stage. Returns why the run ends, or "" if the next stage follows."""
        stage = self._begin(plan)
        self.log.begin(plan)
        if self.run is not None:
            self.run.steps = self.total_steps()
        self.bar.update(self.state.step, plan.name)
        ended = self._steps(stage, signals)
        if ended:
            return ended
        if self.task.validation and stage.ended_early(self.state):
            by = self.task.validation.best
            better = {"min": "lower", "max": "higher"}[by.direction]
            self._tell(f"stage {plan.name} ends: no {better} validation {by.compared} for {self.state.stale} epochs")
        if self.task.validation and (best := self.state.best_step.get(plan.name)):
            compared = self.task.validation.best.compared
            self._tell(f"best validation {compared} {self.state.best[plan.name]:.4g}, of step {best}")
        self._finish_writing()  # a task may read the stage's best checkpoint
        if self.state.stage + 1 == len(self.task.stages):
            self.checkpointer.raise_if_not_saved()
        with self.log.clock.part("validate"):
            lines = self.task.finish(plan, self.run, stage.model.unsharded)
        for line in lines:
            self._tell(line)
        self.world.wait()
        steps = self.state.step - self.state.stage_start
        self.state.advance(steps, plan.per_epoch)
        if self.state.stage < len(self.task.stages):
            following = self.task.stages[self.state.stage]
            self.state.order_start = following.order_start(plan, self.state.order_start + steps)
            self.strategy.end(stage.model)
        self.bar.set_total(self.total_steps())
        return ""

    def _begin(self, plan: StagePlan) -> StageRun:
        """Create the stage with a new optimizer, which loads a resumed state if there is one. Collective.

        Queue, momentum network and side modules are kept.
        """
        task, strategy, device = self.task, self.strategy, self.world.device
        loader = task.data.loader(plan)
        model = strategy.begin(
            lambda module: task.prepare(plan, module),
            lambda module: optim.stage_optimizer(task.optim, module, plan.batch, strategy.kind.fuses),
        )
        if self._resumed is not None:
            self.checkpointer.read_on_all(partial(model.load, self._resumed, task.tensors.optimizer))
            self._resumed = None
        guard, means, seed, settings = NaNGuard(device), self.log.means, self.config.seed, self.config.parallel
        given = self.scale, means, seed, settings.accumulate, device, settings.attention
        modules = [model.module, *(side.module for side in task.side_modules)]
        recorder = graph.recorder(settings, self.world, modules, self._tell)
        return StageRun(plan, model, loader, guard, Step(task, plan, model, guard, *given, recorder))

    def _steps(self, stage: StageRun, signals: Signals) -> str:
        state, last = self.state, self.state.stage_start + stage.plan.steps
        limit = last if self.config.steps is None else min(last, self.config.steps)
        offset = self._order_offset
        with closing(stage.loader.iterate(state.step + offset, limit + offset)) as batches, Garbage() as garbage:
            while not stage.ended_early(state):
                with span(DATA):
                    batch = next(batches, None)
                if batch is None:
                    break
                stage.set_pace(self.task, state)
                flight_recorder.begin(state.step + 1)
                stage.step(state.step, batch)
                state.step += 1
                signal = self._after_step(stage, last, limit, signals)
                garbage.at(state.step)
                self.profiler.at(state.step)
                if signal:
                    self._finish_writing()
                    self.checkpointer.raise_if_not_saved()
                    self.bar.print_line(f"{signal}: checkpoint written at step {state.step}")
                    return "interrupted"
        if state.step < last and not stage.ended_early(state):
            self._finish_writing()
            return "done"  # ``steps`` reached
        return ""

    def _after_step(self, stage: StageRun, last: int, limit: int, signals: Signals) -> str:
        """Do what is due: validation, a row, a checkpoint. Returns the signal on which the run ends, if any."""
        step = self.state.step
        with span(LOGGING):
            self._finish_row(stage)  # of the step before: the device has had this one to compute
        every = self.task.validation.every if self.task.validation else 1
        due = (step - self.state.stage_start) % (every * stage.plan.per_epoch) == 0 or step == last
        improved = due and self.validate(stage)
        ends = step == limit or stage.ended_early(self.state)
        if step % self.config.log_every == 0 or ends:
            with span(LOGGING):
                group = stage.model.optimizer.param_groups[0]
                rate = group["lr"] / group["factor"]
                warnings = self.checkpointer.take_warnings() + parallel.take_uncompiled()
                self.log.begin_row(rate, stage.loader.seconds(), warnings, stage.guard)
        self.bar.update(step, stage.plan.name)
        signal = signals.agreed(wait=ends)
        if improved or signal or ends or step % self.config.checkpoint.every == 0:
            self.save(stage)
        return signal

    def planned_steps(self) -> int:
        """The step at which the last stage ends, unless a stage ends early."""
        return self.state.stage_start + sum(plan.steps for plan in self.task.stages[self.state.stage :])

    def total_steps(self) -> int:
        """The step at which the run ends, unless a stage ends early."""
        planned = self.planned_steps()
        return planned if self.config.steps is None else min(planned, self.config.steps)

    def stopped(self) -> str:
        """Return a line about what ``steps`` has left undone; empty once the last stage has ended."""
        step, planned = self.state.step, self.planned_steps()
        undone = (
            f"stopped at {step} of {planned} (steps={self.config.steps}): nothing is evaluated before the last step"
        )
        return undone if self.config.steps is not None and step < planned else ""

    @property
    def _order_offset(self) -> int:
        """By how many steps the stage's order is ahead of the run's steps."""
        return self.state.order_start - self.state.stage_start

    # ------------------------------------------------------------------ validation

    def validate(self, stage: StageRun) -> bool:
        """Write a row of held-out losses; returns whether this step is the stage's best so far."""
        with self.log.clock.part("validate"):
            self.task.before_validation(stage.plan, stage.model.module)
        validation = self.task.validation
        if validation is None:
            return False
        self._stop_on_nan(stage)
        with self.log.clock.part("validate"), span(VALIDATION), Garbage.whenever():
            row = validation.means(stage.plan, stage.model.module)
        self.nan_stop.check_held_out(self.state.step, row, stage.plan, stage.model.module, validation)
        by = validation.best
        if by.average:
            row[by.compared] = self.state.averaged(row[by.metric], by.average)
        self.log.add(row | {"split": "val"})
        if self.task.optim.schedule == PLATEAU:
            self.state.reduce_on_plateau(row["loss"], validation.every, self.task.optim)
        improved = self.state.improve(stage.plan.name, row[by.compared], validation.every, by.direction)
        step = self.state.best_step.get(stage.plan.name)
        best = "the best so far" if improved else f"the best is that of step {step}" if step else "no best yet"
        names = dict.fromkeys([by.metric, by.compared, "loss"])
        figures = ", ".join(f"{name} {row[name]:.4g}" for name in names if name in row)
        self._tell(f"validation at step {self.state.step}: {figures}; {best}")
        return improved

    def _tell(self, line: str, detail: bool = False) -> None:
        """On the main process: a line for screen and log.txt; a ``detail`` is for log.txt alone."""
        if self.run is not None:
            self.run.log(line)
            if not detail:
                self.bar.print_line(line)

    # ------------------------------------------------------------------ checkpoints

    def save(self, stage: StageRun) -> None:
        """Write a checkpoint of this step, after checking that all of it is finite."""
        self._stop_on_nan(stage)
        with self.log.clock.part("checkpoint"), span(CHECKPOINT):
            side_modules = side_module_tensors(self.task.side_modules)
            names = self.task.tensors
            self.nan_stop.check_tensors(self.state.step, stored(stage.model.local_tensors(), names) | side_modules)
            pieces = stored(stage.model.pieces(), names) | checkpoint.replicated(side_modules)
            if self.scale.enabled:
                self.state.loss_scale, self.state.loss_scale_sound = self.scale.value, self.scale.finite_steps
            self.checkpointer.save(self.state.step, pieces, asdict(self.state), self.state.best_step)
            if not self.stored:  # training that could never be resumed is not worth going on with
                self.checkpointer.raise_if_not_saved(first=True)
                self.stored = True

    def _stop_on_nan(self, stage: StageRun) -> None:
        """End on all ranks before anything that is not finite is written; each saves its part of the bad batch."""
        if not self._finish_row(stage):  # which is of this step, and has what the guard knows
            self._check(stage, self.state.step, stage.guard.read())

    def _finish_row(self, stage: StageRun) -> bool:
        """Write the row that was begun, if there is one, unless the run ends instead; return whether there was."""
        return self.log.finish_row(partial(self._check, stage))

    def _check(self, stage: StageRun, step: int, finding: NotFinite | None) -> None:
        self.nan_stop.check_training(step, finding, stage.loader, self._order_offset)

    def _require_space(self) -> None:
        """On the main process, before the first step: room for one checkpoint, which has at least all weights."""
        if self.run is not None:
            tensors = self.strategy.module.state_dict() | side_module_tensors(self.task.side_modules)
            checkpoint.require_space(self.checkpointer.folder, sum(tensor.nbytes for tensor in tensors.values()))

    def _finish_writing(self) -> None:
        with self.log.clock.part("checkpoint"):
            self.checkpointer.wait()
            self.world.wait()

    def _resume(self) -> None:
        """Resume from the newest complete checkpoint, as the main process finds it; clean up after a killed run."""
        folder, read = self.checkpointer.folder, self.checkpointer.read_on_all
        found, damaged = checkpoint.find_latest(folder, self.world.rank, self.world.ranks, read)
        read(lambda: self._clean_up(folder, damaged, found is None))
        if found is None:
            return
        read(lambda: restore(found.tensors, self.strategy.module, self.task))
        self.state, self.stored, self._resumed = RunState(**found.state), True, found.tensors
        read(lambda: self._rewind_run(folder))

    def _clean_up(self, folder: Path, damaged: dict[str, str], anew: bool) -> None:
        """On the main process: move damaged checkpoints and remove unfinished ones."""
        if self.run is None:
            return
        for bad, reason in damaged.items():
            self.run.log(f"refused {bad}: {reason}")
        self.run.lease.check()
        checkpoint.clean_up(folder, damaged)
        if anew:
            self.run.drop_rows_after(0)

    def _rewind_run(self, folder: Path) -> None:
        """On the main process: set the run's pointers and metrics back to the checkpoint that it resumes from."""
        if self.run is not None:
            with checkpoint.as_user_error(folder):
                self.checkpointer.update_pointers(self.state.step, self.state.best_step)
            self.run.drop_rows_after(self.state.step)
