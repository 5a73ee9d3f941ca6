"""The configuration keys that all tasks on sharded datasets share. Like all schemas it needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig

from dira_scale.base.arguments import UNSHOWN, Above, ArgumentError, AtLeast
from dira_scale.base.config.schema import Schema, paths_field, setting, several
from dira_scale.train.data.config import AUTO, Data
from dira_scale.train.engine.config import Optim, Training


@dataclass
class Stage(Schema):
    terms: list[str] = MISSING
    epochs: float = setting(AtLeast(0))
    patience: int | None = setting(AtLeast(1), None)
    batch: int | None = setting(AtLeast(1), None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.terms:
            raise ArgumentError("terms", self.terms, "at least one loss term; epochs=0 skips the stage")


@dataclass
class Validate(Schema):
    every: int = setting(AtLeast(1))
    batch: int = setting(AtLeast(1))
    batches: int | None = setting(AtLeast(1), None)


@dataclass
class StagedTraining(Training):
    """Training on ``data.shards`` in stages."""

    epoch_factor: float = setting(Above(0))
    init_stage: str | None = None
    trust: Any = setting(several(str), None)
    reach: Any = paths_field()
    enough_steps: int | None = setting(AtLeast(1), None)
    data: Data = field(default_factory=Data)
    stages: dict[str, Stage] = MISSING
    optim: Optim = field(default_factory=Optim)
    validate: Validate = field(default_factory=Validate)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(stage.epochs for stage in self.stages.values()):
            raise ArgumentError("stages", UNSHOWN, "one with epochs above 0; nothing would be trained")

    def keep(self, config: DictConfig, before: Mapping[str, Any]) -> None:
        if self.data.block == AUTO:
            config.data.block = self.data.block = before.get("data", {}).get("block", AUTO)

    def bn_groups(self, batch: int) -> int:
        """BatchNorm groups among which a global ``batch`` is divided; 0: none. Raises UserError if it cannot be."""
        return 0
