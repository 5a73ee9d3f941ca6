"""The schema of ``configs/embed.yaml``. Reading it needs no torch."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from dira_scale.config.keys import typed
from dira_scale.config.schema import Schema, at_least, one_of, path_field, paths_field, whole_or
from dira_scale.distributed.config import AUTO, PRECISIONS
from dira_scale.errors import UserError
from dira_scale.evaluation.config import MAP, POOLED


@dataclass
class EmbedModel(Schema):
    encoder: str | None = None


@dataclass
class EmbedData(Schema):
    shards: str = path_field()
    split: str = MISSING
    size: int | None = at_least(1, None)
    workers: int | None = at_least(1, None)


@dataclass
class Embed(Schema):
    run: str | None = path_field(None)
    init: str | None = path_field(None)
    out: str = path_field()
    trust: list[str] = MISSING
    reach: Any = paths_field()
    stage: str | None = None
    what: str = one_of(POOLED, MAP)
    layer: Any = MISSING
    normalise: str | None = one_of("none", "imagenet", default=None)
    dtype: str = one_of("float32", "float16")
    precision: str = one_of(AUTO, *PRECISIONS)
    batch: int = at_least(1)
    seed: int = at_least(0)
    threads: Any = whole_or(AUTO, 1)
    timeout: int = at_least(1)
    data: EmbedData = field(default_factory=EmbedData)
    model: EmbedModel = field(default_factory=EmbedModel)

    def __post_init__(self) -> None:
        """Raises UserError for several layers, and for a layer without maps."""
        super().__post_init__()
        if isinstance(self.layer, list):
            raise UserError(f"layer={typed(self.layer)}: a folder has one level; name one")
        if self.what == MAP and str(self.layer).startswith("class"):
            raise UserError(f"layer={self.layer}: class tokens lie nowhere, and what=map is of places; use last")
