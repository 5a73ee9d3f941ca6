"""Reads a run folder, whole or in the making; what is not there yet is named, never made up."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dira_scale.data.manifest import DatasetError, DatasetInfo, ShardedDataset
from dira_scale.distributed.timings import TIMINGS
from dira_scale.errors import UserError

Row = dict[str, Any]
PARTS = ("step", "data", "validate", "checkpoint")  # where the time goes, as metrics.jsonl names it


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk."""

    step: int
    mib: float
    marks: tuple[str, ...]  # "latest", "best of dir" …


@dataclass(frozen=True)
class Dataset:
    """What a run trained on; ``info`` is None where that cannot be read any more."""

    name: str  # of its folder
    hash: str  # of its content then
    info: DatasetInfo | None


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
    checkpoints: list[Checkpoint]
    datasets: list[Dataset]
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
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is no run folder: it has no config.yaml; run=… takes what pretrain wrote")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    rows = _rows(folder / "metrics.jsonl")
    status, environment = _status(folder), _json(folder / "environment.json", {})
    restoration = _json(folder / "pictures" / "restoration.json", [])
    stages = list(config["stages"])
    pictures = {stage: folder / "pictures" / f"{stage}.png" for stage in stages}
    pictures = {stage: path for stage, path in pictures.items() if path.is_file()}
    datasets, absent = _datasets(config)
    lacking = {
        "status.json: whether the run ended is not known": not status,
        "environment.json: the machine is not known": not environment,
        "no row in metrics.jsonl yet: no curves": not rows,
        "no held-out rows: data.val_split is null, or no epoch has ended": not any(r["split"] == "val" for r in rows),
        "no restored pictures: a stage with restoration writes them when it ends": not pictures,
    }
    missing = [text for text, lacks in lacking.items() if lacks] + absent
    checkpoints = _checkpoints(folder / "checkpoints")
    found = (config, status, environment, rows, restoration, pictures, checkpoints, datasets, missing)
    return Record(folder.resolve(), *found)


def _json(path: Path, otherwise: Any) -> Any:
    return json.loads(path.read_text()) if path.is_file() else otherwise


def _status(folder: Path) -> dict[str, Any]:
    """status.json; a run that calls itself running but whose lease's beat has stopped was killed."""
    status: dict[str, Any] = _json(folder / "status.json", {})
    leases = sorted((folder / "leases").glob("[0-9]*.json"))
    if status.get("state") == "running" and leases:
        still = time.time() - leases[-1].stat().st_mtime
        if still > TIMINGS.still:
            status |= {"state": "killed", "reason": "no sign of life any more; the same command goes on"}
    return status


def _rows(path: Path) -> list[Row]:
    """Whole lines only: of a running run the last may be in the writing."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _checkpoints(folder: Path) -> list[Checkpoint]:
    """Complete ones have names of digits; LATEST and BEST-stage are files that hold such a name."""
    marks: dict[str, list[str]] = {}
    for path in sorted([*folder.glob("LATEST"), *folder.glob("BEST-*")]):
        label = "latest" if path.name == "LATEST" else f"best of {path.name.removeprefix('BEST-')}"
        marks.setdefault(path.read_text().strip(), []).append(label)
    found = sorted(path for path in folder.glob("[0-9]*") if path.name.isdigit())
    return [Checkpoint(int(p.name), _mib(p), tuple(marks.get(p.name, ()))) for p in found]


def _mib(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir()) / 2**20


def _datasets(config: dict[str, Any]) -> tuple[list[Dataset], list[str]]:
    """What ``data.shards`` names (a path, a list of them or path: weight), and why some of it cannot be described."""
    shards = config["data"]["shards"]
    paths = [shards] if isinstance(shards, str) else list(shards)
    found, absent = [], []
    for path, trained_on in zip(paths, config["datasets"], strict=True):
        name, digest, info = Path(path).name, trained_on["hash"], None
        try:
            dataset = ShardedDataset.open(path)
        except DatasetError:
            absent.append(f"data {name}: no readable dataset lies where the run read it")
        else:
            info = dataset.info if dataset.hash == digest else None
            if info is None:
                absent.append(f"data {name}: other images lie in its place by now")
        found.append(Dataset(name, digest, info))
    return found, absent
