"""Ends a run on all processes before anything that is not finite is written, and reports the cause."""

import logging
import math
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from dira_scale.base.machine.hardware import bf16_without_amx
from dira_scale.train.distributed.collectives import gather
from dira_scale.train.distributed.control import gather_objects
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.nan_guard import NotFinite, NotFiniteError, nonfinite_names
from dira_scale.train.engine.task import StagePlan, TaskData, TaskLoader, Validation
from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.exit_codes import FAILED
from dira_scale.train.runs.folder import RunFolder

logger = logging.getLogger(__name__)


class NaNStop:
    """Every process calls each method in the same order; what one of them finds raises ``NotFiniteError`` on all.

    Batches with bad values are saved in ``nan/`` of the run's ``folder``. Only the main process has ``run``.
    """

    def __init__(
        self, world: World, data: TaskData, checkpointer: checkpoint.Checkpointer, folder: Path, run: RunFolder | None
    ) -> None:
        self.world, self.data, self.checkpointer, self.folder, self.run = world, data, checkpointer, folder, run

    def check_training(self, step: int, finding: NotFinite | None, loader: TaskLoader, offset: int) -> None:
        """Check what the guard has recorded up to ``step``; ``loader`` is ``offset`` steps ahead of the run."""
        if finding is None:
            return
        with closing(loader.iterate(finding.step + offset, finding.step + offset + 1)) as batches:
            batch = next(batches)
        folder = self._save(f"step-{finding.step + 1:09d}", batch, False, finding.row(self.world.rank))
        self.fail(step, f"{finding}; its images: {folder}/rank-{finding.ranks[0]}/batch.json")

    def check_held_out(
        self, step: int, row: dict[str, float], stage: StagePlan, module: nn.Module, validation: Validation
    ) -> None:
        """Check the means over the held-out samples after ``step``, the same on all processes."""
        broken = [name for name, value in row.items() if not math.isfinite(value)]
        if not broken:
            return
        terms = [name for name in broken if name.startswith("loss/")] or broken
        message = f"step {step}: {', '.join(terms)} of held-out images is not finite"
        bad = validation.first_broken(stage, module)
        ranks = gather(torch.tensor([bad is not None], device=self.world.device)).nonzero()[:, 0].tolist()
        if bad is not None:
            batch, losses = bad
            broken_on = {"step": step, "rank": self.world.rank, "broken": dict.fromkeys(terms, ranks)}
            self._save(f"held-out-{step:09d}", batch, True, broken_on | {"losses": losses})
        if ranks:
            message += f"; its images: {self.folder}/nan/held-out-{step:09d}/rank-{ranks[0]}/batch.json"
        self.fail(step, message)

    def check_tensors(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Check what a checkpoint of ``step`` would contain."""
        bad = nonfinite_names(tensors)
        if gather(torch.tensor([len(bad)], device=self.world.device)).any():
            names = gather_objects(bad)  # of a sharded module each process has only its own parts
            first = next(name for part in names for name in part)
            what = f"{len(set().union(*names))} tensors of the next checkpoint are not finite"
            self.fail(step, f"step {step}: {what} (the first: {first}), though every loss is finite")

    def fail(self, step: int, message: str) -> NoReturn:
        """End on all ranks, after status.json is written: a launcher ends slower processes soon after the first."""
        self._report(step, message, message)  # first: the checkpoint under way may take long, or never finish
        try:
            self.checkpointer.wait()
        except checkpoint.NotSavedError as error:
            left = str(error)
        else:
            self.world.wait()
            steps = checkpoint.complete(self.checkpointer.folder)
            left = f"the checkpoint of step {int(steps[-1].name)} is intact" if steps else "there is no checkpoint yet"
        if self.world.device.type == "cpu" and self.world.precision == "bf16" and bf16_without_amx():
            left += (
                ". This CPU gets some gradients wrong in bf16, and only layers of torch.nn are guarded against it: if "
                "this network calls convolutions otherwise, start a new run with precision=fp32"
            )
        left += ". docs/how-to/training.md says what to do"
        self._report(step, left, f"{message}; {left}")
        self.world.wait()
        raise NotFiniteError(f"{message}; {left}")

    def _report(self, step: int, line: str, reason: str) -> None:
        """Log ``line``; write ``reason`` to status.json."""
        if self.run is not None:
            logger.error(line)
            self.run.status("failed", step, exit_code=FAILED, reason=reason)

    def _save(self, name: str, batch: Any, held_out: bool, row: dict[str, Any]) -> Path:
        """Save this process's part of the batch; returns the folder of all parts."""
        folder = self.folder / "nan" / name
        self.data.save_batch(folder / f"rank-{self.world.rank}", batch, held_out, row)
        return folder
