"""What a report tells of a run; what is not there yet is named, never made up."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dira_scale.errors import UserError
from dira_scale.runs.checkpoint import StoredCheckpoint
from dira_scale.runs.reader import Row, RunReader, TrainingData

PARTS = ("step", "data", "validate", "checkpoint")  # where the time goes, as metrics.jsonl names it

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """A run folder's content. ``missing`` says in words what it lacks."""

    folder: Path
    config: dict[str, Any]
    status: dict[str, Any]
    environment: dict[str, Any]
    rows: list[Row]
    restoration: list[Row]
    pictures: dict[str, Path]
    checkpoints: list[StoredCheckpoint]
    datasets: list[TrainingData]
    missing: list[str]

    @property
    def stages(self) -> list[str]:
        """Names of the stages that have rows, in the order in which they ran."""
        return list(dict.fromkeys(row["stage"] for row in self.rows))

    def select(self, stage: str, split: str) -> list[Row]:
        """The rows of one stage and split (``train`` or ``val``)."""
        return [row for row in self.rows if row["stage"] == stage and row["split"] == split]

    def span(self, stage: str) -> tuple[int, int]:
        """Steps of ``stage``: from the end of the one before it to its last row."""
        stages = self.stages
        i = stages.index(stage)
        before = [row["step"] for row in self.rows if row["stage"] in stages[:i]]
        return max(before, default=0), max(row["step"] for row in self.rows if row["stage"] == stage)

    def restarts(self) -> list[int]:
        """Steps at which another process took the run over (its lease's number grew)."""
        pairs = zip(self.rows, self.rows[1:], strict=False)
        return [before["step"] for before, after in pairs if after["lease"] != before["lease"]]


def read(folder: Path) -> Record:
    """The run in ``folder``.

    Raises:
        UserError: there is no run.
    """
    run = RunReader(folder)
    status, environment, rows, pictures = run.status(), run.environment(), run.rows(), run.pictures()
    checkpoints, unread = _checkpoints(run)
    datasets = list(run.datasets())
    lacking = {
        "status.json: whether the run ended is not known": not status,
        "environment.json: the machine is not known": not environment,
        "no row in metrics.jsonl yet: no curves": not rows,
        "no held-out rows: data.val_split is null, or no epoch has ended": not any(r["split"] == "val" for r in rows),
        "no restored pictures: a stage with restoration writes them when it ends": not pictures,
        "checkpoints: checkpoint.folder could not be read when this page was written": unread,
    }
    missing = [text for text, lacks in lacking.items() if lacks]
    missing += [f"data {data.name}: {data.problem}" for data in datasets if data.problem]
    found = (run.config, status, environment, rows, run.restoration(), pictures, checkpoints, datasets, missing)
    return Record(folder.resolve(), *found)


def _checkpoints(run: RunReader) -> tuple[list[StoredCheckpoint], bool]:
    """The run's checkpoints, and whether these are not to be read: why, only the terminal is told, with all names."""
    try:
        return run.checkpoints(), False
    except UserError as error:
        logger.warning("%s", error)
        return [], True
