"""The training loop: stages, steps, validation, checkpoints. It knows nothing of images or of how processes start."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from dira_scale.config import Pretrain, Stage
from dira_scale.data.batch import Batch
from dira_scale.data.distort import Distort
from dira_scale.methods.adversary import Adversary
from dira_scale.methods.method import Method, Terms
from dira_scale.models.norm import commit_statistics
from dira_scale.train import checkpoint, optim, parallel
from dira_scale.train.inputs import HeldOut, Inputs
from dira_scale.train.metrics import Clock, Means
from dira_scale.train.pictures import write_pictures
from dira_scale.train.progress import Bar
from dira_scale.train.run import Run
from dira_scale.train.signals import Signals
from dira_scale.train.trackers import TensorBoard


@dataclass
class Progress:
    """Where a run stands; with the tensors, all that a checkpoint holds."""

    step: int = 0  # optimizer steps consumed
    stage: int = 0  # index of the stage
    stage_start: int = 0  # step at which it began
    best: dict[str, float] = field(default_factory=dict)  # lowest validation loss by stage
    stale: int = 0  # epochs since the stage's lowest validation loss


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
        self.device = accelerator.device
        format = torch.channels_last if config.parallel.channels_last else torch.contiguous_format
        self.method: Method = method.to(self.device, memory_format=format)  # type: ignore[call-overload]
        self.adversary = adversary.to(self.device, memory_format=format)  # type: ignore[call-overload]
        if config.parallel.checkpoint_activations:
            parallel.checkpoint_activations(self.method)
        self.distort = Distort(inputs.views).to(self.device)
        self.stages = {name: stage for name, stage in config.stages.items() if stage.epochs > 0}
        self.discriminator_optimizer = optim.build(config.optim.discriminator, adversary, "optim.discriminator")
        self.held_out = inputs.held_out(
            config.validate.batch, config.validate.batches, accelerator.process_index, accelerator.num_processes
        )
        self.progress = Progress()
        self.means, self.clock = Means(), Clock()
        folder = Path(config.run) / "checkpoints"
        self.checkpointer = checkpoint.Checkpointer(
            folder,
            config.checkpoint.keep,
            accelerator.process_index,
            accelerator.num_processes,
            guard=run.lease.check if run else lambda: None,
        )
        self._restored: dict[str, Tensor] = {}  # the optimizer's state, until the stage's optimizer is made
        self._restore()
        self.tracker = TensorBoard(Path(config.run) / "tensorboard", self.progress.step) if run else None
        self._logged, self._waited = self.progress.step, 0.0  # step and seconds of waiting at the last row

    # ------------------------------------------------------------------ the run

    def train(self) -> str:
        """Train to the end, to ``steps`` or to a signal; returns ``done`` or ``interrupted``."""
        with Signals() as signals, Bar(self.total_steps(), self.progress.step, self.run is not None) as bar:
            self.bar = bar
            while self.progress.stage < len(self.stages):
                name, stage = list(self.stages.items())[self.progress.stage]
                self._enter_stage(name, stage)
                ended = self._run_stage(name, stage, signals)
                if ended:
                    return ended
                self._leave_stage(name)
        return "done"

    def _run_stage(self, name: str, stage: Stage, signals: Signals) -> str:
        """Steps of one stage; returns why the run ends, or nothing where the next stage follows."""
        progress, last = self.progress, self.progress.stage_start + self.stage_steps(stage)
        limit = min(last, self.config.steps or last)
        if self._stopped_early(stage):
            return ""
        with closing(self.inputs.train.iterate(progress.step, limit)) as batches:
            for batch in batches:
                self.train_step(batch, stage)
                progress.step += 1
                signal = self._after_step(name, stage, last, limit, signals)
                if signal:
                    self._finish()
                    self.bar.say(f"{signal}: checkpoint written at step {progress.step}")
                    return "interrupted"
                if self._stopped_early(stage):
                    self.bar.say(f"stage {name}: validation stood still for {progress.stale} epochs, on to the next")
                    break
        if progress.step == self.config.steps and progress.step < last:
            self._finish()
            return "done"
        return ""

    def _after_step(self, name: str, stage: Stage, last: int, limit: int, signals: Signals) -> str:
        """Whatever is due: validation, a row, a checkpoint. Returns the signal that was received, if any."""
        step = self.progress.step
        improved = self._due_validation(last) and self.validate(name, stage)
        if step % self.config.log_every == 0 or step == limit:
            self._log(name)
        self.bar.update(step, name)
        signal = signals.agreed()
        if improved or signal or step % self.config.checkpoint.every == 0 or step == limit:
            self.save(best=name if improved else None)
        return signal

    def train_step(self, batch: Batch, stage: Stage) -> None:
        """One optimizer step of the generator, then one of the discriminator on the same reconstructions."""
        adversarial, accumulate = "ad" in stage.terms, self.config.parallel.accumulate
        self._set_rate(stage)
        pairs: list[tuple[Tensor, Tensor]] = []
        for i, micro in enumerate(batch.to(self.device).split(accumulate)):
            torch.manual_seed(_mix(self.config.seed, batch.step, i))  # drop-path and the like: a function of the step
            with parallel.unsynchronised(self.engine, last=i == accumulate - 1):
                terms, losses = self._losses(self.engine, micro, stage)
                (losses["loss"] / accumulate).backward()
            self.means.add(losses | terms.monitors)
            if adversarial:
                assert terms.restored is not None and terms.target is not None
                pairs.append((terms.target, terms.restored.detach()))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if adversarial:
            self._discriminator_step(pairs)
        commit_statistics(self.method)
        self.method.after_step()

    def _discriminator_step(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        for real, fake in pairs:
            loss = self.adversary.discriminator_loss(real, fake)
            (loss / len(pairs)).backward()
            self.means.add({"loss/discriminator": loss})
        parallel.average_gradients(self.adversary, self.accelerator.num_processes)
        self.discriminator_optimizer.step()
        self.discriminator_optimizer.zero_grad(set_to_none=True)

    def _losses(self, engine: torch.nn.Module, batch: Batch, stage: Stage) -> tuple[Terms, dict[str, Tensor]]:
        """Losses of one micro-batch by name; ``loss`` is their weighted sum, L = Σ λ·L_term (paper, equation 4)."""
        distorted = self.distorted(batch, stage)
        with parallel.autocast(self.device, self.config.precision):
            terms: Terms = engine(batch.views, distorted, batch)
        losses = dict(terms.losses)
        if "ad" in stage.terms:
            assert terms.restored is not None
            losses["ad"] = self.adversary.generator_loss(terms.restored)
        total = torch.stack([self.method.weights[term] * loss.float() for term, loss in losses.items()]).sum()
        return terms, {"loss": total} | {f"loss/{term}": loss for term, loss in losses.items()}

    def distorted(self, batch: Batch, stage: Stage) -> tuple[Tensor, ...]:
        """T(.) of every view; the base alone goes without cutout and shuffling (the released code's mode `di`)."""
        corrupt = "re" in stage.terms
        pairs = zip(batch.views, batch.distortions, strict=True)
        return tuple(self.distort(view, parameters, corrupt) for view, parameters in pairs)

    # ------------------------------------------------------------------ validation

    @torch.no_grad()
    def validate(self, name: str, stage: Stage) -> bool:
        """Loss on the held-out split with fixed views; True where it is the stage's lowest. Changes nothing else."""
        if self.held_out is None:
            return False
        with self.clock.part("validate"):
            self.method.eval()
            means = Means()
            for batch, count in self.held_out.batches():
                terms, losses = self._losses(self.method, batch.to(self.device), stage)
                means.add(losses | terms.monitors, count)
            self.method.train()
            row = means.take()
        self._record(row | {"split": "val"}, name)
        progress = self.progress
        improved = row["loss"] < progress.best.get(name, float("inf"))
        progress.stale = 0 if improved else progress.stale + self.config.validate.every
        if improved:
            progress.best[name] = row["loss"]
        return improved

    def _due_validation(self, last: int) -> bool:
        done = self.progress.step - self.progress.stage_start
        every = self.config.validate.every * self.inputs.order.steps_per_epoch
        return done % every == 0 or self.progress.step == last

    def _stopped_early(self, stage: Stage) -> bool:
        return stage.patience is not None and self.progress.stale >= stage.patience

    # ------------------------------------------------------------------ stages

    def stage_steps(self, stage: Stage) -> int:
        """Optimizer steps of a stage that is not stopped early: at least one."""
        epochs = stage.epochs * self.config.epoch_factor
        return max(1, round(epochs * self.inputs.order.steps_per_epoch))

    def total_steps(self) -> int:
        """Of all stages, or ``steps`` where that is less."""
        total = sum(self.stage_steps(stage) for stage in self.stages.values())
        return min(total, self.config.steps or total)

    def _enter_stage(self, name: str, stage: Stage) -> None:
        """Fresh optimizer and schedule; queue, momentum model and discriminator go on (RECIPES: as released)."""
        self.method.enter_stage(stage.terms)
        self.engine = parallel.prepare(self.accelerator, self.method)
        self.engine.train()
        self.optimizer = optim.build(self.config.optim.optimizer, self.method, "optim.optimizer")
        optim.load_by_name(self.optimizer, self.method, "optim.generator", self._restored)
        self._restored = {}
        self.bar.update(self.progress.step, name)

    def _leave_stage(self, name: str) -> None:
        if "re" in self.stages[name].terms:
            self._pictures(name)
        self._finish()
        self.progress.stage += 1
        self.progress.stage_start, self.progress.stale = self.progress.step, 0

    @torch.no_grad()
    def _pictures(self, name: str) -> None:
        """What the weights at the stage's end restore of the held-out images, all of them on the main process."""
        held_out = self.inputs.held_out(self.config.validate.batch, self.config.validate.batches)
        done = (Path(self.config.run) / "pictures" / f"{name}.png").exists()
        if self.run is not None and held_out is not None and not done:
            with self.clock.part("validate"):
                self.method.eval()
                restored = self._restorations(held_out, self.stages[name])
                write_pictures(self.run.folder / "pictures", name, restored, self.config.validate.pictures)
                self.method.train()

    def _restorations(self, held_out: HeldOut, stage: Stage) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for stored, _ in held_out.batches():
            batch = stored.to(self.device)
            distorted = self.distorted(batch, stage)
            with parallel.autocast(self.device, self.config.precision):
                terms = self.method(batch.views, distorted, batch)
            yield terms.target, distorted[0], terms.restored

    def _set_rate(self, stage: Stage) -> None:
        step = self.progress.step - self.progress.stage_start
        for group in self.optimizer.param_groups:
            base = group.setdefault("initial_lr", group["lr"])
            group["lr"] = optim.learning_rate(
                self.config.optim.schedule, base, step, self.stage_steps(stage), self.inputs.order.steps_per_epoch
            )

    # ------------------------------------------------------------------ rows and checkpoints

    def _log(self, name: str) -> None:
        waited, self._waited = self.inputs.train.waited - self._waited, self.inputs.train.waited
        self.clock.add("data", waited)
        values, seconds = self.means.take(), self.clock.take()
        steps = self.progress.step - self._logged
        self._logged = self.progress.step
        images = steps * self.config.data.batch / max(1e-9, seconds["step"] + seconds.get("data", 0.0))
        row: dict[str, Any] = values | {f"time/{part}": value for part, value in seconds.items()}
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(
                f"step {self.progress.step}: the loss is {values}; lower the rate or use precision=fp32"
            )
        row |= {"lr": self.optimizer.param_groups[0]["lr"], "images_per_second": images, "split": "train"}
        self._record(row, name)
        self.bar.note(f"loss {values['loss']:.3f}  {images:.0f} images/s")

    def _record(self, row: dict[str, Any], name: str) -> None:
        if self.run is None:
            return
        epoch = self.progress.step / self.inputs.order.steps_per_epoch
        self.run.metrics({"step": self.progress.step, "epoch": round(epoch, 4), "stage": name} | row)
        self.run.status("running", self.progress.step, name)
        assert self.tracker is not None
        self.tracker.add(self.progress.step, row)

    def save(self, best: str | None = None) -> None:
        """A checkpoint of everything at this step."""
        with self.clock.part("checkpoint"):
            tensors = {f"method.{k}": v for k, v in self.method.state_dict().items()}
            tensors |= {f"discriminator.{k}": v for k, v in self.adversary.state_dict().items()}
            tensors |= optim.state_by_name(self.optimizer, self.method, "optim.generator")
            tensors |= optim.state_by_name(self.discriminator_optimizer, self.adversary, "optim.discriminator")
            self.checkpointer.save(self.progress.step, tensors, asdict(self.progress), best)

    def _finish(self) -> None:
        with self.clock.part("checkpoint"):
            self.checkpointer.wait()
            self.accelerator.wait_for_everyone()

    def _restore(self) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        found = checkpoint.load_latest(Path(self.config.run))
        self.accelerator.wait_for_everyone()
        if found is not None:
            tensors, state, damaged = found
            self.progress = Progress(**state)
            self.method.load_state_dict(_without_prefix(tensors, "method."))
            self.adversary.load_state_dict(_without_prefix(tensors, "discriminator."))
            optim.load_by_name(self.discriminator_optimizer, self.adversary, "optim.discriminator", tensors)
            self._restored = {k: v for k, v in tensors.items() if k.startswith("optim.generator.")}
        if self.run is not None:
            for folder, reason in (damaged if found else {}).items():
                self.run.log(f"refused {folder.name}: {reason}")
            checkpoint.clear(Path(self.config.run) / "checkpoints", list(damaged) if found else [])
            self.run.forget_after(self.progress.step)
        self.accelerator.wait_for_everyone()


def _without_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _mix(*words: int) -> int:
    """A seed of 63 bits from integers."""
    digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
