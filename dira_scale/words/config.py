"""The schema of ``configs/words.yaml``. Reading it needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from dira_scale.config.schema import Schema, above, at_least, path_field, paths_field
from dira_scale.errors import UserError
from dira_scale.models.architecture import Architecture
from dira_scale.runs.description import Description

AXES = {2: "height and width", 3: "depth, height and width"}


@dataclass
class WordsData(Schema):
    shards: str = path_field()
    split: str = MISSING
    val_split: str = MISSING
    fraction: float = above(0, at_most=1)
    fraction_seed: int = at_least(0)
    size: list[int] | None = at_least(1, None)
    workers: int | None = at_least(1, None)


@dataclass
class Neighbours(Schema):
    train: int = at_least(1)
    val: int = at_least(1)


@dataclass
class Zoomed(Schema):
    """Further crops of a training neighbour, of other sizes in the plane."""

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
        """Raises UserError without an encoder, or for sizes that are not of the same axes or that no crop can have."""
        super().__post_init__()
        if MISSING in (self.size, self.margin):
            return
        if (self.run is None) == (self.init is None):
            raise UserError("init: name the encoder by one of run=… and init=…")
        if self.dimensions not in AXES:
            raise UserError(f"size={[*self.size]}: give {AXES[3]}; of images {AXES[2]}")
        sides = {"size": self.size, "data.size": self.data.size or self.size}
        for name, value in {**sides, "margin": self.margin}.items():
            if len(value) != self.dimensions:
                raise UserError(f"{name}={[*value]}: give {AXES[self.dimensions]}, as size={[*self.size]} does")
        for name, value in sides.items():
            if self.dimensions == 2 and len(set(value)) > 1:
                raise UserError(f"{name}={[*value]}: images are cut and seen as squares; give one side twice")
        if self.dimensions == 2 and self.air.hu is not None:
            raise UserError(f"air.hu={self.air.hu:g}: images have no Hounsfield units; add air.hu=null")
        if self.zoomed.cubes and self.zoomed.sides[0] > min(self.size[-2:]):
            raise UserError(
                f"zoomed.sides={list(self.zoomed.sides)}: the smallest must be at most {min(self.size[-2:])}, as "
                f"size={list(self.size)} says: larger ones need not lie in the {self.kind}"
            )
        if self.trials > 2**16:
            raise UserError(f"trials={self.trials}: must be at most {2**16}")

    @property
    def dimensions(self) -> int:
        """2: words of images, 3: of volumes."""
        return len(self.size)

    @property
    def kind(self) -> str:
        """What words are cut out of: ``image`` or ``volume``."""
        return {2: "image", 3: "volume"}[self.dimensions]


def check(cfg: DictConfig, runs: Mapping[str, Description]) -> None:
    """Check settings and ``runs``, by their names, before they have trained. Raises UserError as `words` would."""
    words: Any = OmegaConf.to_object(cfg)
    for name, run in runs.items():
        check_dimensions(f"run={name}", run.network.name, run.network.dimensions, words)


def check_dimensions(key: str, name: str, dimensions: int, words: Words) -> None:
    """Raises UserError for an encoder, named by ``key``, that is of images where ``words`` are of volumes, or the other
    way round."""
    if dimensions != words.dimensions:
        other = {2: "images", 3: "volumes"}[dimensions]
        raise UserError(f"{key}: {name} is an encoder of {other}; name one of {words.kind}s, as size={[*words.size]}")
