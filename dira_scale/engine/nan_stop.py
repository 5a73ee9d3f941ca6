"""Ends a run on all its processes, before anything is written of what is no number, and says what a person needs."""

import math
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from torch import Tensor

from dira_scale.data.batch import Batch
from dira_scale.data.held_out import HeldOutBatches
from dira_scale.data.inputs import Inputs
from dira_scale.data.loaders import Loader
from dira_scale.distributed.collectives import gather, rank
from dira_scale.distributed.control import gathered
from dira_scale.engine.nan_guard import Guard, NotANumberError, save_batch, unsound
from dira_scale.pretraining.objective import Objective
from dira_scale.pretraining.stages import Stage
from dira_scale.pretraining.validation import first_broken
from dira_scale.runs import checkpoint
from dira_scale.runs.folder import FAILED, Run


class Alarm:
    """Every process calls each method, in the same order; one that finds something raises ``NotANumberError`` on all.

    Args:
        folder: of the run; images are saved in its ``nan/``.
        run: on the main process only.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        checkpointer: checkpoint.Checkpointer,
        inputs: Inputs,
        folder: Path,
        run: Run | None,
    ) -> None:
        self.accelerator, self.checkpointer, self.inputs = accelerator, checkpointer, inputs
        self.folder, self.run = folder, run

    def training(self, step: int, guard: Guard, loader: Loader, ahead: int) -> None:
        """Whatever ``guard`` noted up to ``step``; the order of ``loader`` is ``ahead`` steps of the run's."""
        found = guard.read()
        if found is None:
            return
        with closing(loader.iterate(found.step + ahead, found.step + ahead + 1)) as batches:
            batch = next(batches)
        folder = self._save(f"step-{found.step + 1:09d}", batch, self.inputs.data.split, found.row(rank()))
        self.fail(step, f"{found}; its images: {folder}/rank-{found.ranks[0]}/batch.json")

    def held_out(
        self, step: int, row: dict[str, float], objective: Objective, images: HeldOutBatches, stage: Stage
    ) -> None:
        """Means over the held-out images after ``step``, the same on all processes."""
        broken = [name for name, value in row.items() if not math.isfinite(value)]
        if not broken:
            return
        terms = [name for name in broken if name.startswith("loss/")] or broken
        message = f"step {step}: {', '.join(terms)} of held-out images is no number"
        found = first_broken(objective, images, stage)
        on = gather(torch.tensor([found is not None], device=objective.device)).nonzero()[:, 0].tolist()
        if found is not None:
            batch, losses = found
            here = {"step": step, "rank": rank(), "broken": dict.fromkeys(terms, on), "losses": losses}
            self._save(f"held-out-{step:09d}", batch, str(self.inputs.data.val_split), here)
        if on:
            message += f"; its images: {self.folder}/nan/held-out-{step:09d}/rank-{on[0]}/batch.json"
        self.fail(step, message)

    def tensors(self, step: int, tensors: dict[str, Tensor], device: torch.device) -> None:
        """What a checkpoint of ``step`` would hold."""
        spoilt = unsound(tensors)
        if gather(torch.tensor([len(spoilt)], device=device)).any():
            names = gathered(spoilt)  # of a sharded method each process knows its own parts alone
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
            self.accelerator.wait_for_everyone()
            sound = checkpoint.complete(self.checkpointer.folder)
            left = f"the checkpoint of step {int(sound[-1].name)} is sound" if sound else "there is no checkpoint yet"
        left += ". docs/health.md says what to do"
        self._say(step, left, f"{message}; {left}")
        self.accelerator.wait_for_everyone()
        raise NotANumberError(f"{message}; {left}")

    def _say(self, step: int, line: str, reason: str) -> None:
        """On the screen, which always answers, in the log, and as the reason of the run's end so far."""
        if self.run is not None:
            print(f"pretrain: {line}", file=sys.stderr, flush=True)
            self.run.log(line)
            self.run.status("failed", step, exit_code=FAILED, reason=reason)

    def _save(self, name: str, batch: Batch, split: str, row: dict[str, Any]) -> Path:
        """This process's images; the folder of all of them."""
        folder = self.folder / "nan" / name
        save_batch(folder / f"rank-{rank()}", batch, self.inputs.datasets, split, row)
        return folder
