"""The machine that a run is planned for: ``plan.*`` of `plan`, ``machine.*`` of a sweep."""

from dataclasses import dataclass

from dira_scale.config.schema import Schema, above, at_least, place


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
