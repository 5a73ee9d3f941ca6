"""The schema of ``data.*``, apart from ``inputs.py``: a configuration is read where no shards are, hence no pyarrow."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from dira_scale.config.keys import typed
from dira_scale.config.schema import Schema, above, at_least, one_of, path_field, paths_field, whole
from dira_scale.errors import UserError

STORED = "stored"  # the value of ``data.spacing`` for voxels as they are
COUNTS_AS = {"ones": 1.0, "zeros": 0.0, "ignore": float("nan")}  # unknown and uncertain labels
MOST_GRADES = 1000  # of `task=ordinal`: each is an output, whose weights and predictions take memory


@dataclass
class Data(Schema):
    shards: Any = paths_field()
    split: str = MISSING
    val_split: str | None = None
    fraction: float = above(0, at_most=1)
    fraction_seed: int = at_least(0)
    fraction_from: str = one_of("start", "end")
    exclude: Any = paths_field(None)
    negatives: int | None = at_least(1, None)
    size: Any = whole(1)
    spacing: Any = MISSING  # a word or millimetres: checked below
    range: Any = None  # likewise
    pad: bool = False
    batch: int = at_least(1)
    lanes: int | None = at_least(1, None)
    block: int = at_least(1)
    window: int = at_least(1)
    remainder: str = one_of("drop", "wrap")
    workers: int | None = at_least(1, None)
    prefetch: int = at_least(1)
    helper: bool | None = None
    loader: Any = MISSING  # a name, or a node with _target_
    cache: str | None = path_field(None)
    cache_size: float | None = above(0, None)
    missing: str = one_of("stop", "skip")

    def __post_init__(self) -> None:
        """Raises UserError for a spacing that is none, or a range that is not one."""
        super().__post_init__()
        lengths = _numbers(self.spacing)
        if self.spacing not in (STORED, MISSING) and not (len(lengths) in (1, 3) and 0.05 <= min(lengths) <= 50):
            raise UserError(
                f"spacing={typed(self.spacing)}: give {STORED}, or 0.05 to 50 millimetres: a number, or [z,y,x]"
            )
        ends = _numbers(self.range)
        if self.range is not None and not (len(ends) == 2 and -(2**15) <= ends[0] < ends[1] < 2**16):
            raise UserError(f"range={typed(self.range)}: give stored values [low,high], such as [-1000,1000], or null")


def _numbers(value: Any) -> list[float]:
    """A number, or a list of them; empty: neither."""
    values = value if isinstance(value, list) else [value]
    return values if all(type(each) in (int, float) for each in values) else []


def as_stored(data: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of ``data`` that views have of the stored images, unless by default."""
    given = {name: data.get(name) for name in ("spacing", "range", "pad")}
    return {name: value for name, value in given.items() if value not in (None, False, STORED)}
