"""The schema of ``configs/pretrain.yaml``. Like all schemas it needs no torch: a mistake is told within a second."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from dira_scale.config.schema import Schema, above, at_least, one_of
from dira_scale.engine.config import Optim
from dira_scale.models.architecture import Architecture
from dira_scale.training.config import StagedTraining, Validate


@dataclass
class AdversaryConfig(Schema):
    loss: str = one_of("lsgan", "minimax", "wgan_gp", "wgan_gp_released")
    penalty: float = above(0)


@dataclass
class PretrainValidate(Validate):
    pictures: int = at_least(1)
    restored: int = at_least(2)


@dataclass
class HealthConfig(Schema):
    every: int = at_least(1)


@dataclass
class PretrainOptim(Optim):
    discriminator: dict[str, Any] = MISSING


@dataclass
class Pretrain(StagedTraining):
    model: Architecture = field(default_factory=Architecture)
    method: dict[str, Any] = MISSING
    views: dict[str, Any] = MISSING
    optim: PretrainOptim = field(default_factory=PretrainOptim)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    validate: PretrainValidate = field(default_factory=PretrainValidate)
    health: HealthConfig = field(default_factory=HealthConfig)

    def bn_groups(self, batch: int) -> int:
        return self.model.groups(batch)
