"""The schema of ``configs/predict.yaml``: reading it needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig

from dira_scale.base.arguments import AtLeast
from dira_scale.base.config.schema import Schema, one_of, path_field, setting
from dira_scale.base.errors import UserError, require
from dira_scale.base.storage.walk import folder_at
from dira_scale.judge.evaluation.config import SLIDING, WHOLE, OfRun
from dira_scale.judge.evaluation.config import check as check_runs
from dira_scale.train.distributed.config import Threads
from dira_scale.train.runs.description import Description

KEYS, SOURCE = "keys", "source"  # how images are named
NIFTI, DICOMSEG = "nifti", "dicomseg"  # of masks
ABOUT, MASKS, PROBABILITIES = "predict.json", "masks", "probabilities"  # a file and folders of ``out``


@dataclass
class PredictData(Schema):
    shards: str | None = path_field(None)
    split: str = MISSING


@dataclass
class Predict(OfRun):
    data: PredictData = field(default_factory=PredictData)
    images: str | None = path_field(None)
    like: str | None = path_field(None)
    names: str = setting(one_of(KEYS, SOURCE))
    key_file: str | None = path_field(None)
    window: str | None = setting(one_of(WHOLE, SLIDING), None)
    format: str | None = setting(one_of(NIFTI, DICOMSEG), None)
    probabilities: bool = MISSING
    batch: int = setting(AtLeast(1))
    workers: int | None = setting(AtLeast(1), None)
    threads: Any = setting(Threads)
    timeout: int = setting(AtLeast(1))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.shards is None and self.images is None:
            raise UserError("give one of images=FOLDER, new files, and data.shards=OUT, a dataset")
        if self.data.shards is not None and self.images is not None:
            raise UserError(f"images={self.images} and data.shards={self.data.shards}: leave one of them out")
        if self.images is None and self.names == SOURCE:
            raise UserError("names=source: a dataset does not have its files' names; use keys")
        if self.images is None and self.like is not None:
            raise UserError("like: says how a folder's images are read, and data.shards has read them; leave it out")
        if self.format == DICOMSEG and self.images is None:
            raise UserError(
                "format=dicomseg: segmentations are made of the headers of images=FOLDER; a dataset has none"
            )
        if self.format == DICOMSEG and self.probabilities:
            raise UserError("probabilities=true: are written as NIfTI, beside masks of format=nifti")


def require_format(cfg: DictConfig | Predict) -> None:
    """Raise UserError where ``format`` needs highdicom and it is missing."""
    if cfg.format == DICOMSEG:
        require("format=dicomseg needs", "dicomseg", "highdicom")


def check_images(cfg: DictConfig | Predict) -> None:
    """Raise UserError if the folder ``images`` is on this machine and not there."""
    if cfg.images is not None:
        folder_at(cfg.images, "images")


def check_format(config: Any, run: str, pooled: bool, dimensions: int) -> None:
    """Raise UserError for a ``format``, or probabilities, that a network does not write; ``pooled``: without masks."""
    of_volumes = config.format == NIFTI or config.probabilities
    if pooled and (config.format or config.probabilities):
        key = f"format={config.format}" if config.format else "probabilities=true"
        raise UserError(f"{key}: is of masks, and run={run} has none; leave it out")
    if of_volumes and dimensions == 2:
        raise UserError(f"format={NIFTI}, and probabilities, are of volumes: run={run} is of images; leave them out")


def check(cfg: DictConfig, runs: Mapping[str, Description]) -> None:
    """Check ``runs`` as `evaluate` does, and the format of their masks. Raises UserError."""
    check_runs(cfg, runs)
    for name, run in runs.items():
        check_format(cfg, name, run.network.head == "pooled", len(run.input.size))
