"""The schema of ``configs/toy.yaml``."""

from dataclasses import dataclass

from dira_scale.config.schema import Schema, at_least, path_field


@dataclass
class Toy(Schema):
    number: int = at_least(0)
    after: str | None = path_field()
    workers: int = at_least(1)
    out: str = path_field()
