"""The schemas of ``configs/shard.yaml`` and of its subcommands, ``configs/shard_NAME.yaml``."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from dira_scale.base.arguments import Above, ArgumentError, AtLeast, Within
from dira_scale.base.config.schema import Schema, constructed, one_of, path_field, paths_field, setting
from dira_scale.train.data.repeats import MOST


@dataclass
class RecipeConfig(Schema):
    """Keys common to all. The recipe is open: its source has its own arguments."""

    out: str | None = path_field(None)
    slice: str | None = None
    workers: int | None = setting(AtLeast(1), None)
    key_file: str | None = path_field(None)
    recipe: dict[str, Any] = constructed()


@dataclass
class ShardConfig(RecipeConfig):
    out: str = path_field()


@dataclass
class PlanConfig(RecipeConfig):
    sample: int = setting(AtLeast(1))


@dataclass
class RepairConfig(RecipeConfig):
    path: str = path_field()


@dataclass
class Verify(Schema):
    path: str = path_field()
    slice: str | None = None
    workers: int | None = setting(AtLeast(1), None)


@dataclass
class StatsConfig(Schema):
    path: str = path_field()
    page: str | None = path_field(None)


@dataclass
class Convert(Schema):
    path: str = path_field()
    to: str = setting(one_of("ffcv"))


@dataclass
class Merge(Schema):
    paths: Any = paths_field()
    out: str = path_field()
    name: str = MISSING


@dataclass
class Subset(Schema):
    path: str = path_field()
    out: str = path_field()
    fraction: float = setting(Above(0, 1))
    seed: int = setting(AtLeast(0))
    splits: Any = MISSING
    where: Any = None
    folds: int | None = setting(AtLeast(2), None)
    fold: int = setting(AtLeast(0))

    def __post_init__(self) -> None:
        """Raises ArgumentError for an invalid fold or where."""
        super().__post_init__()
        if self.folds is not None and self.fold >= self.folds:
            raise ArgumentError("fold", self.fold, f"0 to {self.folds - 1}, as there are {self.folds}")
        if self.where is not None and not isinstance(self.where, dict):
            raise ArgumentError("where", self.where, "attributes or labels, such as '{view: [PA, AP], Nodule: 1}'")


@dataclass
class Audit(Schema):
    path: str = path_field()
    source: str | None = path_field(None)
    tables: Any = paths_field()
    against: Any = paths_field()
    near_duplicates: bool = MISSING
    workers: int | None = setting(AtLeast(1), None)


@dataclass
class Balance(Schema):
    path: Any = paths_field()
    embeddings: Any = paths_field()
    out: str = path_field()
    split: str = MISSING
    clusters: list[int] | None = setting(AtLeast(2), None)
    rounds: int = setting(AtLeast(0))
    duplicates: float | None = setting(Above(0, 1), None)
    draws: int | None = setting(AtLeast(1), None)
    most: int = setting(Within(1, MOST))
    seed: int = setting(AtLeast(0))
