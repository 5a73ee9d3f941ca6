"""Reads a run folder, finished or running. Needs no GPU and no process group, and writes nothing."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from torch import Tensor

from dira_scale.base.config.trust import beyond, may_ask
from dira_scale.base.errors import UserError, counted
from dira_scale.base.storage.owned import is_inside
from dira_scale.base.storage.store import as_os_error, locate
from dira_scale.dataset.manifest import DatasetError, DatasetInfo, ShardedDataset
from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.choice import BEST, LATEST, ChosenCheckpoint, chosen_checkpoint
from dira_scale.train.runs.complete import config_file
from dira_scale.train.runs.description import Dataset, Description, read_description
from dira_scale.train.runs.files import inside, read_json, read_rows, read_status, read_yaml
from dira_scale.train.runs.heartbeat import has_stopped, seconds_without_beat
from dira_scale.train.runs.lora import merged
from dira_scale.train.runs.shape import STEP, shaped

RunRow = dict[str, Any]  # of metrics.jsonl or restoration.json
logger = logging.getLogger(__name__)


class Position(TypedDict):
    """The keys that every task has in a checkpoint's state."""

    stage: STEP
    best: NotRequired[dict[str, float | None]]


class Environment(TypedDict):
    """``environment.json``, as far as more than its texts is shown."""

    cores: int
    gpus: list[str]
    processes: int


class Restored(TypedDict):
    """A row of ``restoration.json``."""

    stage: str
    restorer: Literal["mean", "distorted", "blur", "telea", "nearest", "gaussian", "restored"]
    mse: float
    ssim: float
    n: int


@dataclass(frozen=True)
class TrainingData:
    """A dataset that a run was trained on, and whether it is still there."""

    known: Dataset
    info: DatasetInfo | None  # None if that content can no longer be read
    problem: str = ""  # why; names no folder
    error: str = ""  # the complete message

    @property
    def name(self) -> str:
        """Its own, if that is known, else its folder's."""
        return self.known.name or Path(self.known.path).name


class RunReader:
    """The run in ``folder``. Files that do not exist yet read as empty.

    Attributes:
        config: its resolved configuration, to show; what it means is in ``description``.

    Raises UserError if there is no run, or its description is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = read_yaml(config_file(folder))
        self.description: Description = read_description(folder)

    @property
    def stages(self) -> list[str]:
        """The stages that the run trains, in order."""
        return [stage.name for stage in self.description.stages]

    def status(self) -> dict[str, Any]:
        """``status.json``; if it says running but the lease's beat has stopped, the state is ``killed``."""
        status = read_status(self.folder)
        silent = seconds_without_beat(self.folder)
        if status.get("state") == "running" and silent is not None and has_stopped(silent):
            status |= {"state": "killed", "reason": "no sign of life any more; the same command continues"}
        return status

    def environment(self) -> dict[str, Any]:
        """``environment.json``: versions, commit, machine."""
        return read_json(self.folder / "environment.json", {}, Environment)

    def rows(self) -> list[RunRow]:
        """The whole rows of ``metrics.jsonl``; how many others there are is logged."""
        path = self.folder / "metrics.jsonl"
        rows, damaged = read_rows(path, self.description.rate)
        if damaged:
            logger.warning("%s: %s left out, which are damaged", path, counted(damaged, "row"))
        return rows

    def restoration(self) -> list[RunRow]:
        """The errors of restoring held-out images, a row for each stage and restorer."""
        return read_json(inside(self.folder / "pictures/restoration.json", self.folder), [], list[Restored])

    def pictures(self) -> dict[str, Path]:
        """Restored held-out images, a file for each stage that has them."""
        files = {stage: self.folder / "pictures" / f"{stage}.png" for stage in self.stages}
        return {stage: file for stage, file in files.items() if is_inside(file, self.folder) and file.is_file()}

    def checkpoints(self) -> list[checkpoint.StoredCheckpoint]:
        """The run's checkpoints, oldest first, wherever they are.

        Raises UserError if the disk or the store does not answer, or is not to be asked.
        """
        return checkpoint.stored_checkpoints(self.folder)

    def datasets(self) -> Iterator[TrainingData]:
        """Yield the datasets that the run was trained on, as they can be read now."""
        for dataset in self.description.data.datasets:
            path, changed = dataset.path, "the dataset there now has other images"
            if not may_ask(path):
                yield TrainingData(dataset, None, "not looked up", f"{path}: {beyond(path)}")
                continue
            try:
                with as_os_error(locate(path, "data.shards")):
                    present = ShardedDataset.open(path)
            except (DatasetError, UserError, OSError) as error:
                yield TrainingData(dataset, None, "no readable dataset where the run read it", str(error))
                continue
            if present.hash != dataset.hash:
                yield TrainingData(dataset, None, changed, f"{path}: {changed}")
            else:
                yield TrainingData(dataset.known(present.info), present.info)

    def load(self, stage: str | None) -> tuple[Mapping[str, Tensor], dict[str, Any], str]:
        """The weights of a checkpoint, which are read when they are asked for, its state, and the stage in which it was
        written.

        ``stage``: as :func:`chosen_checkpoint` takes it. Which one that is, is logged if there are others.

        Raises ``UserError`` if there is no such stage or checkpoint, or it is damaged.
        """
        chosen = self.chosen(stage)
        if chosen.others:
            logger.info("%s", chosen.sentence(self.folder.resolve().name, "stage", self.description.best))
        try:
            stored, state = checkpoint.load(chosen.folder)
            tensors = merged(stored)
            shaped(Position, state, f"this is the state of no run of {self.folder}")
        except checkpoint.DamagedError as error:
            raise UserError(
                f"{error}; run {self.description.command} again, which continues from the newest intact one, or, where "
                f"a command has the key stage, name another ({', '.join([*self.stages, BEST, LATEST])})"
            ) from error
        return tensors, state, self.stages[min(state["stage"], len(self.stages) - 1)]

    def chosen(self, stage: str | None) -> ChosenCheckpoint:
        """The checkpoint that :meth:`load` takes. Raises UserError."""
        return chosen_checkpoint(self.folder, self.description, stage)
