"""The schema of ``configs/plan.yaml``: a pretraining run and the machine to plan it for."""

from dataclasses import dataclass, field

from dira_scale.planning.cluster import Machine
from dira_scale.pretraining.config import Pretrain


@dataclass
class Plan(Pretrain):
    plan: Machine = field(default_factory=Machine)
