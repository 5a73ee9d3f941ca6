"""The schema of ``configs/toy.yaml``."""

from dataclasses import dataclass

from dira_scale.base.arguments import AtLeast
from dira_scale.base.config.schema import Schema, path_field, setting


@dataclass
class Toy(Schema):
    number: int = setting(AtLeast(0))
    after: str | None = path_field()
    workers: int = setting(AtLeast(1))
    out: str = path_field()
