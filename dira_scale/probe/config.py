"""The schema of ``configs/probe.yaml``. Reading it needs no torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from dira_scale.base.arguments import Above, AtLeast
from dira_scale.base.config.schema import Schema, one_of, path_field, paths_field, setting, several
from dira_scale.base.errors import UserError
from dira_scale.judge.evaluation.config import PIXELS
from dira_scale.judge.tasks.classes import check_classes
from dira_scale.train.runs.files import read_json

PROBES = ("linear", "knn", "sgd")
USUAL = PROBES[:2]  # of encoders; of embeddings, all
PRETEXTS = ("rotation", "position", "position14")


@dataclass
class ProbeData(Schema):
    shards: str | None = path_field(None)
    split: str = MISSING
    val_split: str = MISSING
    test_split: str = MISSING
    size: int | None = setting(AtLeast(2 * PIXELS), None)
    workers: int | None = setting(AtLeast(1), None)


@dataclass
class ProbeModel(Schema):
    encoder: str | None = None


@dataclass
class ProbeMasks(Schema):
    classes: dict[str, Any] | None = None
    k: int = setting(AtLeast(1))
    temperature: float = setting(Above(0))

    def __post_init__(self) -> None:
        """Raises UserError as of task.classes."""
        super().__post_init__()
        check_classes(self.classes)


@dataclass
class Probe(Schema):
    run: Any = paths_field(None)
    init: str | None = path_field(None)
    embeddings: Any = paths_field(None)
    out: str | None = path_field(None)
    seed: int = setting(AtLeast(0))
    trust: Any = setting(several(str), None)
    reach: Any = paths_field()
    stage: str | None = None
    layer: Any = MISSING
    labels: list[str] | None = None
    pretext: str | None = setting(one_of(*PRETEXTS), None)
    fractions: list[float] = setting(Above(0, 1))
    draws: int = setting(AtLeast(1))
    random_encoders: int = setting(AtLeast(1))
    probes: list[str] | None = setting(one_of(*PROBES), None)
    c: list[float] = setting(Above(0))
    k: int = setting(AtLeast(1))
    batch: int = setting(AtLeast(1))
    data: ProbeData = field(default_factory=ProbeData)
    model: ProbeModel = field(default_factory=ProbeModel)
    masks: ProbeMasks = field(default_factory=ProbeMasks)

    def __post_init__(self) -> None:
        """Raises UserError without a dataset, and for a pretext beside what has no images or other labels."""
        super().__post_init__()
        if self.embeddings is None and self.data.shards is None:
            raise UserError("data.shards must be given: data.shards=…, or embeddings=…; --help describes them")
        for key in ("embeddings", "labels"):
            if self.pretext and getattr(self, key) is not None:
                raise UserError(f"pretext={self.pretext}: images are changed and classified by that; leave {key} out")


def refuse_other_figures(out: Path, cfg: DictConfig) -> None:
    """Raise UserError where the default ``out`` has the figures of other embeddings or runs, which would vanish."""
    if cfg.out or not (out / "probe.json").is_file():
        return
    there = read_json(out / "probe.json", dict[str, Any]()).get("config") or {}
    for key in ("embeddings", "run", "init"):
        if there.get(key) != (here := OmegaConf.to_container(cfg).get(key)):  # type: ignore[union-attr]
            raise UserError(
                f"{out} has the figures of {key}={there.get(key)}, not of {key}={here}: name a folder, out=…"
            )
