"""The schema of ``configs/report.yaml``."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from dira_scale.base.config.keys import typed
from dira_scale.base.config.schema import Schema, path_field, paths_field, setting, several
from dira_scale.base.errors import UserError


@dataclass
class ReportData(Schema):
    shards: str | None = path_field(None)


@dataclass
class Report(Schema):
    run: Any = paths_field(None)
    folder: str | None = path_field(None)
    embeddings: str | None = path_field(None)
    out: str | None = path_field(None)
    watch: bool = MISSING
    trust: Any = setting(several(str), None)
    reach: Any = paths_field()
    data: ReportData = field(default_factory=ReportData)

    def __post_init__(self) -> None:
        """Raises UserError unless runs, a sweep or embeddings are given, and one of them."""
        super().__post_init__()
        about = {"run": self.run, "folder": self.folder, "embeddings": self.embeddings}
        given = {key: value for key, value in about.items() if value not in (None, [])}
        if not given:
            raise UserError("run must be given, or a sweep or embeddings: run=FOLDER, sweep=NAME or embeddings=FOLDER")
        if len(given) > 1:
            named = " and ".join(f"{key}={typed(value)}" for key, value in given.items())
            raise UserError(f"{named}: a page is about one of them; leave the other out")
        if (self.embeddings is None) != (self.data.shards is None):
            raise UserError("embeddings and data.shards belong together: the embeddings' images are in the shards")
        if self.watch and self.out is not None:
            raise UserError(f"out={self.out} and watch=true, which writes no file: leave one of them out")
        if self.watch and self.embeddings is not None:
            raise UserError("watch=true: embeddings do not change; leave it out")
