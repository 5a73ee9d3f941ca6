"""The content of a report on a run. Missing parts are listed, never made up."""

import logging
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from dira_scale.base.errors import UserError
from dira_scale.base.storage.text import last_parts
from dira_scale.judge.evaluation.results import read_results
from dira_scale.train.runs.checkpoint import StoredCheckpoint
from dira_scale.train.runs.description import Description
from dira_scale.train.runs.reader import RunReader, RunRow, TrainingData
from dira_scale.train.runs.remarks import RECOGNISED

PARTS = ("step", "data", "validate", "checkpoint")  # where the time goes, as metrics.jsonl names it
LOADER_PARTS = ("read", "decode", "transform", "copy")  # of the loader's threads, beside the training

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunContent:
    """A run folder's content. ``config`` is to show, its meaning is in ``description``; ``results`` are empty if it is
    not evaluated; ``missing``: what the folder lacks, one sentence each."""

    folder: Path
    config: dict[str, Any]
    description: Description
    status: dict[str, Any]
    environment: dict[str, Any]
    rows: list[RunRow]
    results: dict[str, Any]
    restoration: list[RunRow]
    pictures: dict[str, Path]
    checkpoints: list[StoredCheckpoint]
    datasets: list[TrainingData]
    missing: list[str]

    @property
    def stages(self) -> list[str]:
        """Names of the stages that have rows, in the order they ran."""
        return list(dict.fromkeys(row["stage"] for row in self.rows))

    def select(self, stage: str, split: str) -> list[RunRow]:
        """The rows of one stage and split (``train`` or ``val``)."""
        return [row for row in self.rows if row["stage"] == stage and row["split"] == split]

    def span(self, stage: str) -> tuple[int, int]:
        """First and last step of ``stage``: from the end of the previous stage to its last row."""
        stages = self.stages
        i = stages.index(stage)
        before = [row["step"] for row in self.rows if row["stage"] in stages[:i]]
        return max(before, default=0), max(row["step"] for row in self.rows if row["stage"] == stage)

    def terms(self, stage: str) -> list[str]:
        """The loss terms that ``stage`` trains; empty if the description does not name it."""
        planned = self.description.stage(stage)
        return [*planned.terms] if planned else []

    @property
    def recognised(self) -> str | None:
        """The first of ``RECOGNISED`` that the rows have beside ``chance``; None if none."""
        return next((name for name in RECOGNISED if any(row.keys() >= {name, "chance"} for row in self.rows)), None)

    @property
    def held_out_samples(self) -> float:
        """The number of samples that a validation looks at; infinite if a dataset cannot be read any more."""
        data = self.description.data
        samples = [dataset.known.samples for dataset in self.datasets]
        counts = [inf if by_split is None else by_split.get(data.held_out_split or "", 0) for by_split in samples]
        return min(data.held_out or inf, sum(counts))

    def restarts(self) -> list[int]:
        """Steps at which another process took over the run (the lease number grew)."""
        pairs = zip(self.rows, self.rows[1:], strict=False)
        return [before["step"] for before, after in pairs if after["lease"] != before["lease"]]

    def reason(self) -> str:
        """The reason in status.json, with the run's files relative to its folder; of other paths only the last part."""
        text = self.status.get("reason") or ""
        for folder in (self.config.get("run"), self.folder):
            text = text.replace(f"{folder}/", "")
        return last_parts(text)


def read_run(folder: Path) -> RunContent:
    """The run in ``folder``. Raises UserError: there is none."""
    reader = RunReader(folder)
    status, environment, rows, pictures = reader.status(), reader.environment(), reader.rows(), reader.pictures()
    try:
        checkpoints, unreadable = reader.checkpoints(), False
    except UserError as error:  # the terminal alone gets the reason: it has full names
        logger.warning("%s", error)
        checkpoints, unreadable = [], True
    datasets = list(reader.datasets())
    results, named = read_results(folder), reader.description.output.names  # images have no names, classes do
    absent = {
        "status.json: unknown whether the run ended": not status,
        "environment.json: unknown machine": not environment,
        "no steps yet: no row in metrics.jsonl, so no curves": not rows,
        "no held-out rows: data.val_split is null, or no epoch has ended": not any(r["split"] == "val" for r in rows),
        "no restored pictures: a stage with restoration writes them when it ends": not (pictures or named),
        "no results: the best checkpoint is evaluated when the training has ended": bool(named) and not results,
        "checkpoints: checkpoint.folder could not be read when this page was written": unreadable,
    }
    missing = [text for text, is_absent in absent.items() if is_absent]
    missing += [f"data {data.name}: {data.problem}" for data in datasets if data.problem]
    return RunContent(
        folder.resolve(), reader.config, reader.description, status, environment, rows, results, reader.restoration(),
        pictures, checkpoints, datasets, missing,
    )  # fmt: skip
