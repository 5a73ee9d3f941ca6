"""Schemas of ``configs/shard.yaml`` and the other commands that take a recipe."""

from dataclasses import dataclass
from typing import Any

from dira_scale.config.schema import Schema, at_least, constructed, place


@dataclass
class RecipeConfig(Schema):
    """Keys common to all. The recipe is open: its source has its own arguments."""

    out: str | None = place(None)
    slice: str | None = None
    workers: int | None = at_least(1, None)
    key_file: str | None = place(None)
    recipe: dict[str, Any] = constructed()


@dataclass
class ShardConfig(RecipeConfig):
    out: str = place()


@dataclass
class PlanConfig(RecipeConfig):
    sample: int = at_least(1)


@dataclass
class RepairConfig(RecipeConfig):
    path: str = place()
