"""The schemas of ``configs/plan.yaml`` and ``plan_finetune.yaml``: a run and the machine to plan it for."""

from dataclasses import dataclass, field

from dira_scale.distributed.config import AUTO
from dira_scale.finetune.config import Finetune
from dira_scale.forecast.config import Machine
from dira_scale.pretrain.config import Pretrain


@dataclass
class Plan(Pretrain):
    plan: Machine = field(default_factory=Machine)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.precision = _on_gpus(self.precision)


@dataclass
class PlanFinetune(Finetune):
    plan: Machine = field(default_factory=Machine)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.precision = _on_gpus(self.precision)


def _on_gpus(precision: str) -> str:
    """The planned GPUs compute bfloat16, whatever the machine that plans."""
    return "bf16" if precision == AUTO else precision
