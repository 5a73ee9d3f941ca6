"""The schema of ``configs/pretrain.yaml``."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from dira_scale.config.schema import above, at_least
from dira_scale.data.config import Data
from dira_scale.engine.optim import Optim
from dira_scale.engine.trainer import Training
from dira_scale.errors import UserError
from dira_scale.methods.adversary import AdversaryConfig
from dira_scale.models.network import Architecture
from dira_scale.pretraining.monitors import HealthConfig
from dira_scale.pretraining.stages import Stage
from dira_scale.pretraining.validation import Validate


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
