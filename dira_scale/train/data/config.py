"""The schema of ``data.*``, apart from ``inputs.py``: a configuration is read where no shards are, hence no pyarrow."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from omegaconf import MISSING

from dira_scale.base.arguments import Above, ArgumentError, AtLeast
from dira_scale.base.config.schema import Schema, one_of, path_field, paths_field, setting, several

STORED = "stored"  # the value of ``data.spacing`` for voxels as they are
AUTO = "auto"  # of ``data.block``
COUNTS_AS = {"ones": 1.0, "zeros": 0.0, "ignore": float("nan")}  # unknown and uncertain labels


@dataclass
class Data(Schema):
    shards: Any = paths_field()
    split: str = MISSING
    val_split: str | None = None
    fraction: float = setting(Above(0, 1))
    fraction_seed: int = setting(AtLeast(0))
    fraction_from: str = setting(one_of("start", "end"))
    exclude: Any = paths_field(None)
    negatives: int | None = setting(AtLeast(1), None)
    weights: str | None = path_field(None)
    crops: int = setting(AtLeast(1), 1)
    size: Any = setting(several(Annotated[int, AtLeast(1)]))
    spacing: Any = MISSING  # a word or millimetres: checked below
    range: Any = None  # likewise
    pad: bool = False
    batch: int = setting(AtLeast(1))
    lanes: int | None = setting(AtLeast(1), None)
    block: Any = setting(Literal["auto"] | Annotated[int, AtLeast(1)])
    window: int = setting(AtLeast(1))
    remainder: str = setting(one_of("drop", "wrap"))
    workers: int | None = setting(AtLeast(1), None)
    prefetch: int = setting(AtLeast(1))
    helper: bool | None = None
    loader: Any = MISSING  # a name, or a node with _target_
    cache: str | None = path_field(None)
    cache_size: float | None = setting(Above(0), None)
    missing: str = setting(one_of("stop", "skip"))

    def __post_init__(self) -> None:
        super().__post_init__()
        lengths = _numbers(self.spacing)
        if self.spacing not in (STORED, MISSING) and not (len(lengths) in (1, 3) and 0.05 <= min(lengths) <= 50):
            raise ArgumentError("spacing", self.spacing, f"{STORED}, or 0.05 to 50 millimetres: a number, or [z,y,x]")
        ends = _numbers(self.range)
        if self.range is not None and not (len(ends) == 2 and -(2**15) <= ends[0] < ends[1] < 2**16):
            raise ArgumentError("range", self.range, "stored values [low,high], such as [-1000,1000], or null")


def _numbers(value: Any) -> list[float]:
    """Return a number, or a list of them; empty: neither."""
    values = value if isinstance(value, list) else [value]
    return values if all(type(entry) in (int, float) for entry in values) else []


def as_stored(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of ``data`` that views have of the stored images, unless by default."""
    values = {name: data.get(name) for name in ("spacing", "range", "pad")}
    return {name: value for name, value in values.items() if value not in (None, False, STORED)}
