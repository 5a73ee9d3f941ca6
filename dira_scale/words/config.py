"""The schema of ``configs/words.yaml``. Reading it needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from dira_scale.base.arguments import Above, ArgumentError, AtLeast, Within
from dira_scale.base.config.schema import Schema, path_field, paths_field, setting, several
from dira_scale.base.errors import UserError
from dira_scale.train.models.architecture import Architecture
from dira_scale.train.runs.description import Description

AXES = {2: "height and width", 3: "depth, height and width"}


@dataclass
class WordsData(Schema):
    shards: str = path_field()
    split: str = MISSING
    val_split: str = MISSING
    fraction: float = setting(Above(0, 1))
    fraction_seed: int = setting(AtLeast(0))
    size: list[int] | None = setting(AtLeast(1), None)
    workers: int | None = setting(AtLeast(1), None)


@dataclass
class Neighbours(Schema):
    train: int = setting(AtLeast(1))
    val: int = setting(AtLeast(1))


@dataclass
class Zoomed(Schema):
    """Further crops of a training neighbour, of other sizes in the plane."""

    cubes: int = setting(Within(0, 255))
    sides: list[int] = setting(AtLeast(1))
    jitter: list[int] = MISSING

    def __post_init__(self) -> None:
        """Raises ArgumentError for a range that is none, or a jitter that cannot be 0."""
        super().__post_init__()
        if MISSING in (self.sides, self.jitter):
            return
        if len(self.sides) != 2 or self.sides[0] > self.sides[1]:
            raise ArgumentError("sides", self.sides, "the smallest and the largest, such as [50,79]")
        if len(self.jitter) != 2 or not self.jitter[0] <= 0 <= self.jitter[1]:
            raise ArgumentError("jitter", self.jitter, "the smallest and the largest, around 0, such as [-10,9]")


@dataclass
class Air(Schema):
    hu: float | None = None
    share: float = setting(Above(0, 1))


@dataclass
class Words(Schema):
    run: str | None = path_field(None)
    trust: Any = setting(several(str), None)
    reach: Any = paths_field()
    init: str | None = path_field(None)
    out: str = path_field()
    stage: str | None = None
    seed: int = setting(AtLeast(0))
    words: int = setting(AtLeast(2))
    neighbours: Neighbours = field(default_factory=Neighbours)
    size: list[int] = setting(AtLeast(1))
    margin: list[int] = setting(AtLeast(0))
    distance: float = setting(AtLeast(0))
    trials: int = setting(Within(1, 2**16))
    zoomed: Zoomed = field(default_factory=Zoomed)
    air: Air = field(default_factory=Air)
    batch: int = setting(AtLeast(1))
    shard_size: int = setting(AtLeast(1))
    workers: int | None = setting(AtLeast(1), None)
    data: WordsData = field(default_factory=WordsData)
    model: Architecture = field(default_factory=Architecture)

    def __post_init__(self) -> None:
        """Raises ArgumentError without an encoder, or for sizes of other axes or that no crop can have."""
        super().__post_init__()
        if MISSING in (self.size, self.margin):
            return
        if (self.run is None) == (self.init is None):
            raise ArgumentError("init", self.init, "one of run=… and init=… to name the encoder")
        if self.dimensions not in AXES:
            raise ArgumentError("size", self.size, f"{AXES[3]}; of images {AXES[2]}")
        sides = {"size": self.size, "data.size": self.data.size or self.size}
        for name, value in {**sides, "margin": self.margin}.items():
            if len(value) != self.dimensions:
                raise ArgumentError(name, value, f"{AXES[self.dimensions]}, as size={[*self.size]} has")
        for name, value in sides.items():
            if self.dimensions == 2 and len(set(value)) > 1:
                raise ArgumentError(name, value, "one side twice: images are cut and seen as squares")
        if self.dimensions == 2 and self.air.hu is not None:
            raise ArgumentError("air.hu", self.air.hu, "null: images have no Hounsfield units")
        if self.zoomed.cubes and self.zoomed.sides[0] > min(self.size[-2:]):
            most = f"the smallest at most {min(self.size[-2:])}, as size={[*self.size]} says"
            raise ArgumentError(
                "zoomed.sides", self.zoomed.sides, f"{most}: larger ones need not lie in the {self.kind}"
            )

    @property
    def dimensions(self) -> int:
        """2: words of images, 3: of volumes."""
        return len(self.size)

    @property
    def kind(self) -> str:
        """The kind of source that words are cut from: ``image`` or ``volume``."""
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
