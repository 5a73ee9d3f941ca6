"""The schema of ``configs/export.yaml``."""

from dataclasses import dataclass
from typing import Any

from dira_scale.config.schema import Schema, one_of, place
from dira_scale.models.formats import FORMATS


@dataclass
class Export(Schema):
    run: str = place()
    stage: str | None = None
    formats: Any = one_of(*FORMATS, default=None)
    out: str | None = place(None)
