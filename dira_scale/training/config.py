"""The configuration keys that all tasks on sharded datasets share. Like all schemas it needs no torch."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from dira_scale.config.schema import Schema, above, at_least, paths_field
from dira_scale.data.config import Data
from dira_scale.engine.config import Optim, Training
from dira_scale.errors import UserError


@dataclass
class Stage(Schema):
    terms: list[str] = MISSING
    epochs: float = at_least(0)
    patience: int | None = at_least(1, None)
    batch: int | None = at_least(1, None)

    def __post_init__(self) -> None:
        """Raises UserError for a stage without terms."""
        super().__post_init__()
        if not self.terms:
            raise UserError("terms=[]: name at least one loss term, or set epochs=0 to skip the stage")


@dataclass
class Validate(Schema):
    every: int = at_least(1)
    batch: int = at_least(1)
    batches: int | None = at_least(1, None)


@dataclass
class StagedTraining(Training):
    """Training on ``data.shards`` in stages."""

    epoch_factor: float = above(0)
    init_stage: str | None = None
    trust: list[str] = MISSING
    reach: Any = paths_field()
    enough_steps: int | None = at_least(1, None)
    data: Data = field(default_factory=Data)
    stages: dict[str, Stage] = MISSING
    optim: Optim = field(default_factory=Optim)
    validate: Validate = field(default_factory=Validate)

    def __post_init__(self) -> None:
        """Raises UserError if no stage is trained."""
        super().__post_init__()
        if not any(stage.epochs for stage in self.stages.values()):
            raise UserError("stages: all of them have 0 epochs, so nothing would be trained")

    def bn_groups(self, batch: int) -> int:
        """BatchNorm groups among which a global ``batch`` is divided; 0: none. Raises UserError if it cannot be."""
        return 0
