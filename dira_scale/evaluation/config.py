"""The schema of ``configs/probe.yaml``, apart from the comparison: reading it needs no torch."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from dira_scale.config.schema import Schema, above, at_least, place, places

WHOLE, SLIDING = "whole", "sliding"  # how masks of large images are predicted
PIXELS = 16  # the side to which raw pixels are averaged: 256 features, a strong baseline on small radiograph sets


@dataclass
class ProbeData(Schema):
    shards: str = place()
    split: str = MISSING
    val_split: str = MISSING
    test_split: str = MISSING
    size: int | None = at_least(2 * PIXELS, None)
    workers: int = at_least(1)


@dataclass
class ProbeModel(Schema):
    encoder: str | None = None


@dataclass
class Probe(Schema):
    run: Any = places(None)
    init: str | None = place(None)
    out: str | None = place(None)
    seed: int = at_least(0)
    stage: str | None = None
    layer: Any = MISSING
    labels: list[str] | None = None
    fractions: list[float] = above(0, at_most=1)
    draws: int = at_least(1)
    random_encoders: int = at_least(1)
    c: list[float] = above(0)
    k: int = at_least(1)
    batch: int = at_least(1)
    data: ProbeData = field(default_factory=ProbeData)
    model: ProbeModel = field(default_factory=ProbeModel)
