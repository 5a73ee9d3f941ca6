"""The schemas of ``configs/brightness.yaml`` and ``configs/plan_brightness.yaml``."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from dira_scale.base.config.border import at
from dira_scale.train.config import StagedTraining
from dira_scale.train.models.architecture import Architecture
from dira_scale.train.planned import Planned


@dataclass
class Brightness(StagedTraining):
    model: Architecture = field(default_factory=Architecture)
    views: dict[str, Any] = MISSING

    def bn_groups(self, batch: int) -> int:
        with at("model"):
            return self.model.groups(batch)


@dataclass
class PlannedBrightness(Planned, Brightness):
    pass
