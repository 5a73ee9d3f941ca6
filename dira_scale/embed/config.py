"""The schema of ``configs/embed.yaml``. Reading it needs no torch."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from dira_scale.base.arguments import ArgumentError, AtLeast
from dira_scale.base.config.schema import Schema, one_of, path_field, paths_field, setting, several
from dira_scale.judge.evaluation.config import MAP, POOLED
from dira_scale.train.distributed.config import AUTO, PRECISIONS, Threads
from dira_scale.train.runs.description import NORMALISATIONS


@dataclass
class EmbedModel(Schema):
    encoder: str | None = None


@dataclass
class EmbedData(Schema):
    shards: str = path_field()
    split: str = MISSING
    size: int | None = setting(AtLeast(1), None)
    workers: int | None = setting(AtLeast(1), None)


@dataclass
class Embed(Schema):
    run: str | None = path_field(None)
    init: str | None = path_field(None)
    out: str = path_field()
    slice: str | None = None
    trust: Any = setting(several(str), None)
    reach: Any = paths_field()
    stage: str | None = None
    what: str = setting(one_of(POOLED, MAP))
    layer: Any = MISSING
    normalise: str | None = setting(one_of("none", *NORMALISATIONS), None)
    dtype: str = setting(one_of("float32", "float16"))
    precision: str = setting(one_of(AUTO, *PRECISIONS))
    batch: int = setting(AtLeast(1))
    seed: int = setting(AtLeast(0))
    threads: Any = setting(Threads)
    timeout: int = setting(AtLeast(1))
    data: EmbedData = field(default_factory=EmbedData)
    model: EmbedModel = field(default_factory=EmbedModel)

    def __post_init__(self) -> None:
        """Raises ArgumentError for several layers, and for a layer without maps."""
        super().__post_init__()
        if isinstance(self.layer, list):
            raise ArgumentError("layer", self.layer, "one: a folder has one level")
        if self.what == MAP and str(self.layer).startswith("class"):
            raise ArgumentError("layer", self.layer, "last: a map is of places, and class tokens lie nowhere")
