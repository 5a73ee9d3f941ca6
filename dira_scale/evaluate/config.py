"""The schema of ``configs/evaluate.yaml``: reading it needs no torch."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from dira_scale.config.schema import Schema, at_least, one_of, place, places
from dira_scale.evaluation.config import SLIDING, WHOLE


@dataclass
class EvaluationData(Schema):
    shards: str = place()
    split: str = MISSING
    workers: int = at_least(1)


@dataclass
class Evaluation(Schema):
    run: str = place()
    trust: list[str] = MISSING
    reach: Any = places()
    out: str = place()
    data: EvaluationData = field(default_factory=EvaluationData)
    window: str | None = one_of(WHOLE, SLIDING, default=None)
    batch: int = at_least(1)
