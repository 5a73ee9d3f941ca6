"""The schema of ``configs/report.yaml``."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from dira_scale.config.schema import Schema, path_field, paths_field
from dira_scale.errors import UserError


@dataclass
class Report(Schema):
    run: str | None = path_field(None)
    folder: str | None = path_field(None)
    out: str | None = path_field(None)
    trust: list[str] = MISSING
    reach: Any = paths_field()

    def __post_init__(self) -> None:
        """Raises UserError unless a run or a sweep is given, and not both."""
        super().__post_init__()
        if self.run is None and self.folder is None:
            raise UserError("run must be given, or a sweep: run=FOLDER, sweep=NAME or folder=FOLDER")
        if self.run is not None and self.folder is not None:
            raise UserError(
                f"run={self.run} and folder={self.folder}: a page is about one of them; leave the other out"
            )
