"""Schemas of the commands on finished datasets, ``configs/shard_VERB.yaml``."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from dira_scale.config.schema import Schema, above, at_least, one_of, place, places
from dira_scale.errors import UserError


@dataclass
class Verify(Schema):
    path: str = place()
    workers: int | None = at_least(1, None)


@dataclass
class Stats(Schema):
    path: str = place()
    page: str | None = place(None)


@dataclass
class Convert(Schema):
    path: str = place()
    to: str = one_of("ffcv")


@dataclass
class Merge(Schema):
    paths: Any = places()
    out: str = place()
    name: str = MISSING


@dataclass
class Subset(Schema):
    path: str = place()
    out: str = place()
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
    path: str = place()
    source: str | None = place(None)
    tables: Any = places()
    against: Any = places()
    near_duplicates: bool = MISSING
    workers: int | None = at_least(1, None)
