"""The schema of ``configs/evaluate.yaml``: reading it needs no torch."""

from dataclasses import dataclass, field

from dira_scale.config.schema import at_least, one_of
from dira_scale.evaluation.config import SLIDING, WHOLE, LookedAt, OfRun


@dataclass
class Evaluation(OfRun):
    data: LookedAt = field(default_factory=LookedAt)
    window: str | None = one_of(WHOLE, SLIDING, default=None)
    batch: int = at_least(1)
