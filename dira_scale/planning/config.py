"""The schemas of ``configs/plan.yaml`` and ``plan_finetune.yaml``: a run and the machine to plan it for."""

from dataclasses import dataclass, field

from dira_scale.config.schema import Schema, above, at_least, place
from dira_scale.distributed.config import AUTO
from dira_scale.evaluation.finetune.config import Finetune
from dira_scale.pretraining.config import Pretrain


@dataclass
class Machine(Schema):
    nodes: int = at_least(1)
    gpus: int = at_least(1)
    memory: float = above(0)
    tflops: float = above(0)
    images_per_second: float | None = above(0, None)
    within: float = above(0)
    between: float = above(0)
    links: int = at_least(1)
    latency_within: float = at_least(0)
    latency_between: float = at_least(0)
    dispatch: float = at_least(0)
    control: float = at_least(0)
    price: float = at_least(0)
    images: int = at_least(1)
    json: str | None = place(None)


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
