"""The schema of ``configs/localize.yaml``: reading it needs no torch."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from dira_scale.config.schema import above, at_least, within
from dira_scale.errors import UserError
from dira_scale.evaluation.config import LookedAt, OfRun


@dataclass
class Localize(OfRun):
    data: LookedAt = field(default_factory=LookedAt)
    labels: list[str] | None = None
    intensities: list[float] = within(0, 255)
    thresholds: list[float] = above(0, at_most=1)
    pictures: int = at_least(0)

    def __post_init__(self) -> None:
        """Raises UserError for empty lists, and for values that are there twice."""
        super().__post_init__()
        for name in ("labels", "intensities", "thresholds"):
            values = getattr(self, name)
            if values is not None and values != MISSING and len({*values}) != max(1, len(values)):
                raise UserError(f"{name}={values}: give at least one value, and none twice")
