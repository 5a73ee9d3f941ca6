"""The schema of ``configs/localize.yaml``: reading it needs no torch."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from dira_scale.base.arguments import Above, ArgumentError, AtLeast, Within
from dira_scale.base.config.schema import setting
from dira_scale.judge.evaluation.config import LookedAt, OfRun


@dataclass
class Localize(OfRun):
    data: LookedAt = field(default_factory=LookedAt)
    labels: list[str] | None = None
    intensities: list[float] = setting(Within(0, 255))
    thresholds: list[float] = setting(Above(0, 1))
    pictures: int = setting(AtLeast(0))

    def __post_init__(self) -> None:
        """Raises ArgumentError for empty lists, and for values that are there twice."""
        super().__post_init__()
        for name in ("labels", "intensities", "thresholds"):
            values = getattr(self, name)
            if values is not None and values != MISSING and len({*values}) != max(1, len(values)):
                raise ArgumentError(name, values, "at least one value, and none twice")
