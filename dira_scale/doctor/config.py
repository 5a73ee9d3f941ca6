"""The schema of ``configs/doctor.yaml``."""

from dataclasses import dataclass

from dira_scale.base.config.schema import Schema, one_of, path_field, setting


@dataclass
class Doctor(Schema):
    show: str = setting(one_of("all", "launch", "json"))
    shards: str | None = path_field(None)
