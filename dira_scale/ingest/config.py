"""The schemas of sharding: ``configs/shard.yaml``, and of what asks for the same recipe."""

from dataclasses import dataclass
from typing import Any

from dira_scale.config.schema import Schema, at_least, constructed, place


@dataclass
class Conversion(Schema):
    """What every one of them has. The recipe is open: its source has arguments of its own."""

    out: str | None = place(None)
    slice: str | None = None
    workers: int | None = at_least(1, None)
    key_file: str | None = place(None)
    recipe: dict[str, Any] = constructed()


@dataclass
class Shard(Conversion):
    out: str = place()


@dataclass
class Survey(Conversion):
    sample: int = at_least(1)


@dataclass
class Repair(Conversion):
    path: str = place()
