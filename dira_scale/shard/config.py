"""The schemas of ``configs/shard.yaml`` and of its subcommands, ``configs/shard_NAME.yaml``."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from dira_scale.config.schema import Schema, above, at_least, constructed, one_of, path_field, paths_field, within
from dira_scale.errors import UserError


@dataclass
class RecipeConfig(Schema):
    """Keys common to all. The recipe is open: its source has its own arguments."""

    out: str | None = path_field(None)
    slice: str | None = None
    workers: int | None = at_least(1, None)
    key_file: str | None = path_field(None)
    recipe: dict[str, Any] = constructed()


@dataclass
class ShardConfig(RecipeConfig):
    out: str = path_field()


@dataclass
class PlanConfig(RecipeConfig):
    sample: int = at_least(1)


@dataclass
class RepairConfig(RecipeConfig):
    path: str = path_field()


@dataclass
class Verify(Schema):
    path: str = path_field()
    workers: int | None = at_least(1, None)


@dataclass
class StatsConfig(Schema):
    path: str = path_field()
    page: str | None = path_field(None)


def convert_to(to: str | None, out: str | None) -> str:
    """What ``to=null`` stands for: FFCV's files lie beside the tars, so a given ``out`` means shards."""
    return to or ("ffcv" if out is None else "webdataset")


@dataclass
class Convert(Schema):
    path: str = path_field()
    to: str | None = one_of("ffcv", "webdataset", default=None)
    out: str | None = path_field(None)
    codec: str | None = one_of("png", "jpg", "jp2", "npy", default=None)
    bits: int | None = within(8, 16, None)
    max_side: int | None = at_least(16, None)
    quality: int | None = within(1, 100, None)
    workers: int | None = at_least(1, None)

    def __post_init__(self) -> None:
        """Raises UserError for keys that do not go together."""
        super().__post_init__()
        to = convert_to(self.to, self.out)
        form = {name: getattr(self, name) for name in ("codec", "bits", "max_side", "quality")}
        given = [f"{name}={value}" for name, value in form.items() if value is not None]
        if to == "ffcv" and (self.out is not None or given):
            word = given[0] if given else f"out={self.out}"
            raise UserError(f"{word} with to=ffcv: FFCV's files lie beside the tars, with the same images; "
                            "to=webdataset writes new shards")  # fmt: skip
        if to == "webdataset" and self.out is None:
            raise UserError("out must be given with to=webdataset: out=FOLDER of the new dataset")
        if to == "webdataset" and not given:
            raise UserError(f"to=webdataset: say what to change, with {', '.join(form)}")
        if self.bits not in (None, 8, 16):
            raise UserError(f"bits={self.bits}: must be 8 or 16, or null")
        if self.codec == "jpg" and self.bits == 16:
            raise UserError("bits=16 with codec=jpg: JPEG stores 8 bits; use codec=png, jp2 or npy, or bits=8")
        if self.quality is not None and self.codec not in (None, "jpg"):
            raise UserError(f"quality={self.quality} with codec={self.codec}: only codec=jpg has a quality")


@dataclass
class Merge(Schema):
    paths: Any = paths_field()
    out: str = path_field()
    name: str = MISSING


@dataclass
class Subset(Schema):
    path: str = path_field()
    out: str = path_field()
    fraction: float = above(0, at_most=1)
    seed: int = at_least(0)
    splits: Any = MISSING
    where: Any = None
    folds: int | None = at_least(2, None)
    fold: int = at_least(0)

    def __post_init__(self) -> None:
        """Raises UserError for an invalid fold or where."""
        super().__post_init__()
        if self.folds is not None and self.fold >= self.folds:
            raise UserError(f"fold={self.fold}: must be from 0 to {self.folds - 1} with folds={self.folds}")
        if self.where is not None and not isinstance(self.where, dict):
            raise UserError(f"where={self.where}: expected attributes or labels: where='{{view: [PA, AP], Nodule: 1}}'")


@dataclass
class Audit(Schema):
    path: str = path_field()
    source: str | None = path_field(None)
    tables: Any = paths_field()
    against: Any = paths_field()
    near_duplicates: bool = MISSING
    workers: int | None = at_least(1, None)
