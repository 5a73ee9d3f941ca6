"""The schema of ``configs/predict.yaml``: reading it needs no torch."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from dira_scale.config.schema import Schema, at_least, one_of, path_field
from dira_scale.errors import UserError
from dira_scale.evaluation.config import SLIDING, WHOLE, OfRun

KEYS, SOURCE = "keys", "source"  # how images are named


@dataclass
class PredictData(Schema):
    shards: str | None = path_field(None)
    split: str = MISSING


@dataclass
class Predict(OfRun):
    data: PredictData = field(default_factory=PredictData)
    images: str | None = path_field(None)
    like: str | None = path_field(None)
    names: str = one_of(KEYS, SOURCE)
    key_file: str | None = path_field(None)
    window: str | None = one_of(WHOLE, SLIDING, default=None)
    batch: int = at_least(1)
    workers: int | None = at_least(1, None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.shards is None and self.images is None:
            raise UserError("give one of images=FOLDER, new files, and data.shards=OUT, a dataset")
        if self.data.shards is not None and self.images is not None:
            raise UserError(f"images={self.images} and data.shards={self.data.shards}: leave one of them out")
        if self.images is None and self.names == SOURCE:
            raise UserError("names=source: a dataset does not have its files' names; use keys")
        if self.images is None and self.like is not None:
            raise UserError("like: says how a folder's images are read, and data.shards has read them; leave it out")
