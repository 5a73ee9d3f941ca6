"""The schema of ``configs/plan.yaml``: a pretraining run and the machine to plan it for."""

from dataclasses import dataclass, field

from dira_scale.distributed.precision import AUTO
from dira_scale.planning.cluster import Machine
from dira_scale.pretraining.config import Pretrain


@dataclass
class Plan(Pretrain):
    plan: Machine = field(default_factory=Machine)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision == AUTO:  # the planned GPUs compute bfloat16, whatever the machine that plans
            self.precision = "bf16"
