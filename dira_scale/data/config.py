"""The schema of ``data.*``, apart from ``inputs.py``: a configuration is read where no shards are, hence no pyarrow."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from dira_scale.config.schema import Schema, above, at_least, one_of, place, places, whole

COUNTS_AS = {"ones": 1.0, "zeros": 0.0, "ignore": float("nan")}  # unknown and uncertain labels


@dataclass
class Data(Schema):
    shards: Any = places()
    split: str = MISSING
    val_split: str | None = None
    fraction: float = above(0, at_most=1)
    fraction_seed: int = at_least(0)
    fraction_from: str = one_of("start", "end")
    exclude: Any = places(None)
    negatives: int | None = at_least(1, None)
    size: Any = whole(1)
    batch: int = at_least(1)
    lanes: int | None = at_least(1, None)
    block: int = at_least(1)
    window: int = at_least(1)
    remainder: str = one_of("drop", "wrap")
    workers: int | None = at_least(1, None)
    prefetch: int = at_least(1)
    helper: bool = False
    loader: Any = MISSING  # a name, or a node with _target_
    cache: str | None = place(None)
    cache_size: float | None = above(0, None)
    missing: str = one_of("stop", "skip")
