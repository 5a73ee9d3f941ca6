"""The schemas of ``configs/shard.yaml`` and of its subcommands, ``configs/shard_NAME.yaml``."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from dira_scale.config.schema import Schema, above, at_least, constructed, one_of, path_field, paths_field
from dira_scale.errors import UserError


@dataclass
class RecipeConfig(Schema):
    """Keys common to all. The recipe is open: its source has its own arguments."""

    out: str | None = path_field(None)
    slice: str | None = None
    workers: int | None = at_least(1, None)
    key_file: str | None = path_field(None)
    recipe: dict[str, Any] = constructed()


@dataclass
class ShardConfig(RecipeConfig):
    out: str = path_field()


@dataclass
class PlanConfig(RecipeConfig):
    sample: int = at_least(1)


@dataclass
class RepairConfig(RecipeConfig):
    path: str = path_field()


@dataclass
class Verify(Schema):
    path: str = path_field()
    workers: int | None = at_least(1, None)


@dataclass
class StatsConfig(Schema):
    path: str = path_field()
    page: str | None = path_field(None)


@dataclass
class Convert(Schema):
    path: str = path_field()
    to: str = one_of("ffcv")


@dataclass
class Merge(Schema):
    paths: Any = paths_field()
    out: str = path_field()
    name: str = MISSING


@dataclass
class Subset(Schema):
    path: str = path_field()
    out: str = path_field()
    fraction: float = above(0, at_most=1)
    seed: int = at_least(0)
    splits: Any = MISSING
    where: Any = None
    folds: int | None = at_least(2, None)
    fold: int = at_least(0)

    def __post_init__(self) -> None:
        """Raises UserError for an invalid fold or where."""
        super().__post_init__()
        if self.folds is not None and self.fold >= self.folds:
            raise UserError(f"fold={self.fold}: must be from 0 to {self.folds - 1} with folds={self.folds}")
        if self.where is not None and not isinstance(self.where, dict):
            raise UserError(f"where={self.where}: expected attributes or labels: where='{{view: [PA, AP], Nodule: 1}}'")


@dataclass
class Audit(Schema):
    path: str = path_field()
    source: str | None = path_field(None)
    tables: Any = paths_field()
    against: Any = paths_field()
    near_duplicates: bool = MISSING
    workers: int | None = at_least(1, None)
