"""The schema of ``configs/pretrain.yaml``."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from dira_scale.data.inputs import Data
from dira_scale.distributed.processes import Parallel
from dira_scale.engine.optim import Optim
from dira_scale.methods.adversary import AdversaryConfig
from dira_scale.models.encoder import Model
from dira_scale.pretraining.monitors import HealthConfig
from dira_scale.pretraining.stages import Stage
from dira_scale.pretraining.validation import Validate
from dira_scale.runs.checkpoint.writer import CheckpointConfig


@dataclass
class Pretrain:
    run: str = MISSING
    seed: int = MISSING
    steps: int | None = None
    epoch_factor: float = MISSING
    precision: str = MISSING
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    method: dict[str, Any] = MISSING
    views: dict[str, Any] = MISSING
    stages: dict[str, Stage] = MISSING
    optim: Optim = field(default_factory=Optim)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    parallel: Parallel = field(default_factory=Parallel)
    validate: Validate = field(default_factory=Validate)
    health: HealthConfig = field(default_factory=HealthConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    watchdog: float = MISSING
    log_every: int = MISSING
