"""The machine that a run is planned for: ``plan.*`` of `plan`, ``machine.*`` of a sweep."""

from dataclasses import dataclass, field

from dira_scale.config.schema import Schema, above, at_least, path_field
from dira_scale.distributed.config import AUTO


@dataclass
class Machine(Schema):
    nodes: int = at_least(1)
    gpus: int = at_least(1)
    memory: float = above(0)
    tflops: float = above(0)
    bandwidth: float | None = above(0, None)
    norm_bandwidth: float | None = above(0, None)
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
