"""Ends a run on all its processes before anything is written that is not finite, and says what a person needs."""

import logging
import math
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from dira_scale.distributed.collectives import gather
from dira_scale.distributed.control import gather_objects
from dira_scale.distributed.world import World
from dira_scale.engine.nan_guard import NaNGuard, NotFiniteError, unsound
from dira_scale.engine.task import Loader, StagePlan, Task
from dira_scale.runs import checkpoint
from dira_scale.runs.folder import FAILED, RunFolder

logger = logging.getLogger(__name__)


class NaNStop:
    """Every process calls each method, in the same order; what one of them finds raises ``NotFiniteError`` on all.

    Args:
        folder: of the run; broken batches are saved in its ``nan/``.
        run: on the main process only.
    """

    def __init__(
        self, world: World, task: Task, checkpointer: checkpoint.Checkpointer, folder: Path, run: RunFolder | None
    ) -> None:
        self.world, self.task, self.checkpointer, self.folder, self.run = world, task, checkpointer, folder, run

    def training(self, step: int, guard: NaNGuard, loader: Loader, ahead: int) -> None:
        """Whatever ``guard`` noted up to ``step``; the order of ``loader`` is ``ahead`` steps of the run's."""
        found = guard.read()
        if found is None:
            return
        with closing(loader.iterate(found.step + ahead, found.step + ahead + 1)) as batches:
            batch = next(batches)
        folder = self._save(f"step-{found.step + 1:09d}", batch, False, found.row(self.world.rank))
        self.fail(step, f"{found}; its images: {folder}/rank-{found.ranks[0]}/batch.json")

    def held_out(self, step: int, row: dict[str, float], stage: StagePlan, module: nn.Module) -> None:
        """Means over the held-out samples after ``step``, the same on all processes."""
        broken = [name for name, value in row.items() if not math.isfinite(value)]
        if not broken:
            return
        terms = [name for name in broken if name.startswith("loss/")] or broken
        message = f"step {step}: {', '.join(terms)} of held-out images is no number"
        found = self.task.first_broken(stage, module)
        on = gather(torch.tensor([found is not None], device=self.world.device)).nonzero()[:, 0].tolist()
        if found is not None:
            batch, losses = found
            row_here = {
                "step": step,
                "rank": self.world.rank,
                "broken": dict.fromkeys(terms, on),
                "losses": losses,
            }
            self._save(f"held-out-{step:09d}", batch, True, row_here)
        if on:
            message += f"; its images: {self.folder}/nan/held-out-{step:09d}/rank-{on[0]}/batch.json"
        self.fail(step, message)

    def tensors(self, step: int, tensors: dict[str, Tensor]) -> None:
        """What a checkpoint of ``step`` would hold."""
        spoilt = unsound(tensors)
        if gather(torch.tensor([len(spoilt)], device=self.world.device)).any():
            names = gather_objects(spoilt)  # of a sharded module each process knows its own parts alone
            first = next(name for found in names for name in found)
            what = f"{len(set().union(*names))} tensors of the checkpoint to come hold what is no number"
            self.fail(step, f"step {step}: {what} (the first: {first}), though every loss is one")

    def fail(self, step: int, message: str) -> NoReturn:
        """End on all ranks, the state written before a launcher ends those that are slower."""
        self._say(step, message, message)  # first: the checkpoint that is being written may take long, or never end
        try:
            self.checkpointer.wait()
        except checkpoint.NotSavedError as error:
            left = str(error)
        else:
            self.world.wait()
            sound = checkpoint.complete(self.checkpointer.folder)
            left = f"the checkpoint of step {int(sound[-1].name)} is sound" if sound else "there is no checkpoint yet"
        left += ". docs/health.md says what to do"
        self._say(step, left, f"{message}; {left}")
        self.world.wait()
        raise NotFiniteError(f"{message}; {left}")

    def _say(self, step: int, line: str, reason: str) -> None:
        """In the log, and as the reason of the run's end so far."""
        if self.run is not None:
            logger.error(line)
            self.run.status("failed", step, exit_code=FAILED, reason=reason)

    def _save(self, name: str, batch: Any, held_out: bool, row: dict[str, Any]) -> Path:
        """This process's part of the batch; the folder of all parts."""
        folder = self.folder / "nan" / name
        self.task.save_batch(folder / f"rank-{self.world.rank}", batch, held_out, row)
        return folder
