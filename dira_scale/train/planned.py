"""The machine that a run is planned for: ``plan.*`` of `plan`, ``machine.*`` of a sweep."""

from dataclasses import dataclass, field

from dira_scale.base.arguments import Above, AtLeast
from dira_scale.base.config.schema import Schema, path_field, setting
from dira_scale.train.distributed.config import AUTO


@dataclass
class Machine(Schema):
    nodes: int = setting(AtLeast(1))
    gpus: int = setting(AtLeast(1))
    memory: float = setting(Above(0))
    tflops: float = setting(Above(0))
    bandwidth: float | None = setting(Above(0), None)
    norm_bandwidth: float | None = setting(Above(0), None)
    images_per_second: float | None = setting(Above(0), None)
    within: float = setting(Above(0))
    between: float = setting(Above(0))
    links: int = setting(AtLeast(1))
    latency_within: float = setting(AtLeast(0))
    latency_between: float = setting(AtLeast(0))
    dispatch: float = setting(AtLeast(0))
    control: float = setting(AtLeast(0))
    price: float = setting(AtLeast(0))
    images: int = setting(AtLeast(1))
    json: str | None = path_field(None)


@dataclass
class Planned(Schema):
    """Beside the schema of a trainable command: a run of it and the machine to plan it for."""

    plan: Machine = field(default_factory=Machine)

    def __post_init__(self) -> None:
        """Set the precision of the planned GPUs: they compute bfloat16, whatever the machine that plans."""
        super().__post_init__()
        precision = getattr(self, "precision", None)
        if precision == AUTO:
            self.precision = "bf16"


def plan_of(command: str) -> str:
    """Return the name of the configuration by which runs of ``command`` are planned: ``configs/plan*.yaml``."""
    return "plan" if command == "pretrain" else f"plan_{command}"
