"""The schema of ``configs/report.yaml``."""

from dataclasses import dataclass

from dira_scale.config.schema import Schema, place


@dataclass
class Report(Schema):
    run: str = place()
    out: str | None = place(None)
