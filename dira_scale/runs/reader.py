"""A run folder as others find it, whole or in the making. Needs no GPU and no process group, and writes nothing."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from dira_scale.data.manifest import DatasetError, DatasetInfo, ShardedDataset
from dira_scale.distributed.timings import TIMINGS
from dira_scale.errors import UserError, nearest
from dira_scale.places.store import as_os_error, locate
from dira_scale.runs import checkpoint
from dira_scale.runs.lease import seconds_without_beat

LATEST = "latest"  # the value of ``stage`` for the newest checkpoint instead of a best one

Row = dict[str, Any]


@dataclass(frozen=True)
class TrainingData:
    """A dataset that a run was trained on."""

    name: str  # of its folder
    hash: str  # of its content then
    info: DatasetInfo | None  # None where what was trained on cannot be read any more
    lacking: str = ""  # why; names no folder
    error: str = ""  # the same in full


class RunReader:
    """The run in ``folder``. What is not there yet is empty.

    Attributes:
        config: its resolved configuration.

    Raises:
        UserError: there is no run.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "config.yaml"
        if not path.is_file():
            raise UserError(f"run={folder}: no run folder there, {path.name} is missing; give one that pretrain wrote")
        self.folder = folder
        self.config: dict[str, Any] = yaml.safe_load(path.read_text())

    @property
    def stages(self) -> dict[str, Any]:
        """The stages that the run trains, in their order."""
        return {name: node for name, node in self.config["stages"].items() if node["epochs"] > 0}

    def status(self) -> dict[str, Any]:
        """``status.json``; a run that calls itself running but whose lease's beat has stopped was killed."""
        status: dict[str, Any] = self._json("status.json", {})
        still = seconds_without_beat(self.folder)
        if status.get("state") == "running" and still is not None and still > TIMINGS.dead_after:
            status |= {"state": "killed", "reason": "no sign of life any more; the same command goes on"}
        return status

    def environment(self) -> dict[str, Any]:
        """What the run was computed with."""
        found: dict[str, Any] = self._json("environment.json", {})
        return found

    def rows(self) -> list[Row]:
        """``metrics.jsonl``, whole lines only: of a running run the last may be in the writing."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def restoration(self) -> list[Row]:
        """The errors of restoring held-out images, a row for each stage and restorer."""
        found: list[Row] = self._json("pictures/restoration.json", [])
        return found

    def pictures(self) -> dict[str, Path]:
        """Restored held-out images, a file for each stage that has them."""
        files = {stage: self.folder / "pictures" / f"{stage}.png" for stage in self.config["stages"]}
        return {stage: file for stage, file in files.items() if file.is_file()}

    def checkpoints(self) -> list[checkpoint.StoredCheckpoint]:
        """Oldest first, wherever they lie.

        Raises:
            UserError: the disk or the store does not answer.
        """
        return checkpoint.stored_checkpoints(self.folder)

    def datasets(self) -> Iterator[TrainingData]:
        """What ``data.shards`` names (a path, a list of them or path: weight)."""
        shards = self.config["data"]["shards"]
        paths = [shards] if isinstance(shards, str) else list(shards)
        for path, trained_on in zip(paths, self.config["datasets"], strict=True):
            yield _training_data(path, trained_on["hash"])

    def load(self, stage: str | None) -> tuple[dict[str, Tensor], dict[str, Any], str]:
        """Tensors and state of the best checkpoint of ``stage``, and the stage that it is of.

        ``stage``: None is the last one that has a best checkpoint, ``latest`` the newest checkpoint.

        Raises ``UserError`` where there is no such stage or checkpoint, or it is damaged.
        """
        tensors, state = checkpoint.load(self._checkpoint(stage))
        return tensors, state, list(self.stages)[min(state["stage"], len(self.stages) - 1)]

    def _checkpoint(self, stage: str | None) -> Path:
        if stage == LATEST:
            return checkpoint.latest(self.folder)
        if stage is not None and stage not in self.stages:
            have = f"{', '.join(self.stages)}{nearest(stage, [*self.stages, LATEST])}"
            raise UserError(f"stage={stage}: {self.folder} has {have}")
        best = checkpoint.stages_with_best(self.folder)
        if stage is None and not best:
            raise UserError(f"run={self.folder}: no stage has a best checkpoint yet; stage={LATEST} takes the newest")
        return checkpoint.best(self.folder, stage or best[-1])

    def _json(self, file: str, otherwise: Any) -> Any:
        path = self.folder / file
        return json.loads(path.read_text()) if path.is_file() else otherwise


def start_tensors(path: Path) -> dict[str, Tensor] | None:
    """What ``model.weights`` names where it is a run folder: the best weights of the last stage that has such, else the
    newest. None where it is no folder."""
    if not path.is_dir():
        return None
    stages = checkpoint.stages_with_best(path)
    return checkpoint.load(checkpoint.best(path, stages[-1]) if stages else checkpoint.latest(path))[0]


def _training_data(path: str, digest: str) -> TrainingData:
    name, other = Path(path).name, "other images lie in its place by now"
    try:
        with as_os_error(locate(path, "data.shards")):
            dataset = ShardedDataset.open(path)
    except (DatasetError, UserError, OSError) as error:
        return TrainingData(name, digest, None, "no readable dataset lies where the run read it", str(error))
    if dataset.hash != digest:
        return TrainingData(name, digest, None, other, f"{path}: {other}")
    return TrainingData(name, digest, dataset.info)
