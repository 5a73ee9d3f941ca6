"""The schema of ``configs/evaluate.yaml``: reading it needs no torch."""

from dataclasses import dataclass, field

from dira_scale.base.arguments import AtLeast
from dira_scale.base.config.schema import one_of, setting
from dira_scale.judge.evaluation.config import SLIDING, WHOLE, LookedAt, OfRun


@dataclass
class Evaluation(OfRun):
    data: LookedAt = field(default_factory=LookedAt)
    window: str | None = setting(one_of(WHOLE, SLIDING), None)
    batch: int = setting(AtLeast(1))
