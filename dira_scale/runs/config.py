"""The schema of ``checkpoint.*``, apart from the writer: reading it needs no torch."""

from dataclasses import dataclass

from dira_scale.config.schema import Schema, at_least, place


@dataclass
class CheckpointConfig(Schema):
    every: int = at_least(1)
    keep: int = at_least(1)
    folder: str | None = place(None)
