"""The loaders that benchmarks of training compare, by the keys of ``pretrain`` that choose them."""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks import synthetic
from dira_scale.data.loaders import Loader
from dira_scale.data.views import ViewSpec
from dira_scale.errors import UserError
from dira_scale.shard import main as shard
from dira_scale.training.inputs import Inputs

BACKENDS = {
    "cpu": ("data.loader=cpu",),
    "helper": ("data.loader=cpu", "data.helper=true"),
    "dali": ("data.loader=dali",),
    "ffcv": ("data.loader=ffcv",),
    "stream": ("data.loader=stream",),  # and a cache
}


def keys_of(name: str, folder: Path) -> list[str]:
    """Its keys; ``folder``: for the shards that ``stream`` keeps."""
    cache = [f"data.cache={folder / 'cache'}"] if name == "stream" else []
    return [*BACKENDS[name], *cache]


def open_all(
    names: Iterable[str], given: Sequence[str], views: ViewSpec, device: torch.device | str, cores: int, folder: Path
) -> tuple[dict[str, Loader], dict[str, str]]:
    """Loaders of the training data of ``pretrain`` with the keys ``given``, by name; and the reasons of those that
    cannot read it here.

    Raises UserError with all reasons if none can.
    """
    loaders: dict[str, Loader] = {}
    reasons: dict[str, str] = {}
    for name in names:
        _, config = synthetic.configuration(*given, *keys_of(name, folder))
        try:
            loaders[name] = Inputs(config.data, views, config.seed, 0, 1, device=device, cores=cores).train(
                config.data.batch
            )
        except UserError as error:
            reasons[name] = str(error)
    if not loaders:
        raise UserError("; ".join(dict.fromkeys(reasons.values())))
    return loaders, reasons


def make_shards(folder: Path, patients: int, size: int) -> Path:
    """Phantom radiographs of ``size`` pixels as JPEG, all to train on; also in FFCV's form where FFCV is installed."""
    out = folder / "shards"
    words = [f"recipe.patients={patients}", f"recipe.size={size}", f"recipe.max_side={size}"]
    words.append("recipe.splits={train: 1, val: 0, test: 0}")
    code = shard(["recipe=phantom_cxr", f"+recipe.folder={folder / 'dicom'}", f"out={out}", *words])
    if code == 0 and find_spec("ffcv"):
        code = shard(["convert", f"path={out}", "to=ffcv"])
    if code:
        raise UserError("no phantoms could be made, see above")
    return out
