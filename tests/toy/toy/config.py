"""The schema of ``configs/toy.yaml``."""

from dataclasses import dataclass

from dira_scale.config.schema import Schema, at_least, place


@dataclass
class Toy(Schema):
    number: int = at_least(0)
    after: str | None = place()
    workers: int = at_least(1)
    out: str = place()
