"""Shared parts of tasks on sharded datasets."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from dira_scale.train.config import StagedTraining
from dira_scale.train.engine.task import StagePlan, StagePosition
from dira_scale.train.runs.description import Description
from dira_scale.train.runs.folder import RunFolder, recorded_in
from dira_scale.train.schedule import process_counts

if TYPE_CHECKING:
    from dira_scale.train.inputs import Inputs


STARTED = "started"  # the key of ``taken`` in config.yaml: what a run began with stays, wherever its start is by now


def taken_at_first(config: StagedTraining, now: str | None) -> str | None:
    """Return which checkpoint the run in the folder began with, as it has recorded; of a new one, ``now``.

    Raises UserError if its checkpoints cannot be read.
    """
    before = recorded_in(Path(config.run), config.checkpoint.folder)
    return before.get(STARTED) if before else now


class DatasetTask:
    """A task (:class:`dira_scale.train.engine.task.Task`) but for its step, its stages and its description; what is
    rarely needed does nothing here."""

    config: Any  # a StagedTraining
    data: "Inputs"
    taken: str | None = None  # which checkpoint of a run training started from, in words

    def described(self, config: Mapping[str, Any]) -> Description:
        """Return what the command says of a run of this recorded configuration."""
        raise NotImplementedError

    def describe(self, config: dict[str, Any]) -> Description:
        described = self.described(config)
        datasets = zip(described.data.datasets, self.data.datasets, strict=True)
        completed = tuple(dataset.known(opened.info).at(opened.root) for dataset, opened in datasets)
        training = (*described.training, *([self.taken] if self.taken else []))
        return replace(described, data=replace(described.data, datasets=completed), training=training)

    def identity(self) -> dict[str, Any]:
        return {STARTED: self.taken} if self.taken else {}

    def process_counts(self) -> list[int]:
        return process_counts(self.config)

    def set_progress(self, module: nn.Module, share: float) -> None:
        pass

    def before_validation(self, stage: StagePlan, module: nn.Module) -> None:
        pass

    def finish(self, stage: StagePlan, run: RunFolder | None, unsharded: Callable[[], nn.Module]) -> list[str]:
        return []

    def diagnose(self, row: Mapping[str, Any], position: StagePosition) -> list[str]:
        return []
