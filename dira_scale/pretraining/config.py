"""The schema of ``configs/pretrain.yaml``. Like all schemas it needs no torch: a mistake is told within a second."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from dira_scale.config.schema import Schema, above, at_least, one_of
from dira_scale.data.config import Data
from dira_scale.engine.config import Optim, Training
from dira_scale.errors import UserError
from dira_scale.models.architecture import Architecture
from dira_scale.pretraining.stages import Stage


@dataclass
class AdversaryConfig(Schema):
    loss: str = one_of("lsgan", "minimax")


@dataclass
class Validate(Schema):
    every: int = at_least(1)
    batch: int = at_least(1)
    batches: int | None = at_least(1, None)
    pictures: int = at_least(1)
    restored: int = at_least(2)


@dataclass
class HealthConfig(Schema):
    every: int = at_least(1)


@dataclass
class PretrainOptim(Optim):
    discriminator: dict[str, Any] = MISSING


@dataclass
class Pretrain(Training):
    epoch_factor: float = above(0)
    enough_steps: int | None = at_least(1, None)
    data: Data = field(default_factory=Data)
    model: Architecture = field(default_factory=Architecture)
    method: dict[str, Any] = MISSING
    views: dict[str, Any] = MISSING
    stages: dict[str, Stage] = MISSING
    optim: PretrainOptim = field(default_factory=PretrainOptim)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    validate: Validate = field(default_factory=Validate)
    health: HealthConfig = field(default_factory=HealthConfig)

    def __post_init__(self) -> None:
        """Raises UserError if no stage is trained."""
        super().__post_init__()
        if not any(stage.epochs for stage in self.stages.values()):
            raise UserError("stages: all of them have 0 epochs, so nothing would be trained")
