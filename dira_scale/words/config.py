"""The schema of ``configs/words.yaml``. Reading it needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from dira_scale.config.schema import Schema, above, at_least, path_field, paths_field
from dira_scale.errors import UserError
from dira_scale.models.architecture import Architecture
from dira_scale.runs.description import Description


@dataclass
class WordsData(Schema):
    shards: str = path_field()
    split: str = MISSING
    val_split: str = MISSING
    size: list[int] | None = at_least(1, None)
    workers: int | None = at_least(1, None)


@dataclass
class Neighbours(Schema):
    train: int = at_least(1)
    val: int = at_least(1)


@dataclass
class Zoomed(Schema):
    """Further cubes of a training neighbour, of other sizes in the plane."""

    cubes: int = at_least(0)
    sides: list[int] = at_least(1)
    jitter: list[int] = MISSING

    def __post_init__(self) -> None:
        """Raises UserError for a range that is none, or a jitter that cannot be 0."""
        super().__post_init__()
        if MISSING in (self.sides, self.jitter):
            return
        if self.cubes > 255:
            raise UserError(f"cubes={self.cubes}: must be at most 255")
        if len(self.sides) != 2 or self.sides[0] > self.sides[1]:
            raise UserError(f"sides={list(self.sides)}: give the smallest and the largest, such as [50,79]")
        if len(self.jitter) != 2 or not self.jitter[0] <= 0 <= self.jitter[1]:
            raise UserError(f"jitter={list(self.jitter)}: give the smallest and the largest, around 0, such as [-10,9]")


@dataclass
class Air(Schema):
    hu: float | None = None
    share: float = above(0, at_most=1)


@dataclass
class Words(Schema):
    run: str | None = path_field(None)
    trust: list[str] = MISSING
    reach: Any = paths_field()
    init: str | None = path_field(None)
    out: str = path_field()
    stage: str | None = None
    seed: int = at_least(0)
    words: int = at_least(2)
    neighbours: Neighbours = field(default_factory=Neighbours)
    size: list[int] = at_least(1)
    margin: list[int] = at_least(0)
    distance: float = at_least(0)
    trials: int = at_least(1)
    zoomed: Zoomed = field(default_factory=Zoomed)
    air: Air = field(default_factory=Air)
    batch: int = at_least(1)
    shard_size: int = at_least(1)
    workers: int | None = at_least(1, None)
    data: WordsData = field(default_factory=WordsData)
    model: Architecture = field(default_factory=Architecture)

    def __post_init__(self) -> None:
        """Raises UserError without an encoder, or for sizes that are not of three axes or that no cube can have."""
        super().__post_init__()
        if MISSING in (self.size, self.margin):
            return
        if (self.run is None) == (self.init is None):
            raise UserError("init: name the encoder by one of run=… and init=…")
        for name in ("size", "margin"):
            if len(value := list(getattr(self, name))) != 3:
                raise UserError(f"{name}={value}: give depth, height and width")
        if self.data.size is not None and len(self.data.size) != 3:
            raise UserError(f"data.size={list(self.data.size)}: give depth, height and width")
        if self.zoomed.cubes and self.zoomed.sides[0] > min(self.size[1:]):
            raise UserError(
                f"zoomed.sides={list(self.zoomed.sides)}: the smallest must be at most {min(self.size[1:])}, as "
                f"size={list(self.size)} says: larger ones need not lie in the volume"
            )
        if self.trials > 2**16:
            raise UserError(f"trials={self.trials}: must be at most {2**16}")


def check(cfg: DictConfig, runs: Mapping[str, Description]) -> None:
    """Check settings and ``runs``, by their names, before they have trained. Raises UserError as `words` would."""
    OmegaConf.to_object(cfg)
    for name, run in runs.items():
        check_dimensions(f"run={name}", run.network.name, run.network.dimensions)


def check_dimensions(key: str, name: str, dimensions: int) -> None:
    """Raises UserError for an encoder, named by ``key``, that is not of volumes."""
    if dimensions != 3:
        raise UserError(f"{key}: {name} is an encoder of images; name one of volumes")
