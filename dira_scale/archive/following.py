"""The command that trains on a dataset, with what its number of images asks for."""

import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dira_scale.config.compose import defaults
from dira_scale.data.epochs import longer, steps_of
from dira_scale.data.manifest import DatasetInfo, ShardedDataset
from dira_scale.data.manifest.index import SIDES
from dira_scale.errors import UserError

PHANTOMS = ("Phantom", "PhantomCT")  # the sources with an experiment of their own


def pretraining(out: Path, info: DatasetInfo) -> str:
    """The command; empty if the images of train do not fill a batch, when it would be refused."""
    experiment = experiment_for(info)
    config, images = _settings(experiment), info.counts.get("train", 0)
    per_epoch = images // config["data"]["batch"]
    if not per_epoch:
        return ""
    planned = sum(steps_of(stage["epochs"], per_epoch) for stage in config["stages"].values())
    factor = longer(planned, config["enough_steps"])
    words = [f"experiment={experiment}", f"data.shards={out}", f"run=out/runs/{info.name}"]
    if factor is not None:
        words.append(f"epoch_factor={factor:g}")
    if not info.counts.get("val"):
        words.append("data.val_split=null")
    if info.dims == 3 and _are_small(out, config):
        words.append("data.pad=true")
    return f"python -m dira_scale.pretrain {shlex.join(words)}"


def require_images(shards: str) -> None:
    """Raise UserError where ``doctor shards=`` names volumes; its experiments are on images."""
    dataset = ShardedDataset.open(shards)
    if dataset.info.dims == 3:
        instead = pretraining(Path(shards), dataset.info) or "more of them, as they do not fill a batch"
        raise UserError(f"shards={shards} holds volumes, and experiments are compared on images; on volumes: {instead}")


def _are_small(out: Path, config: Mapping[str, Any]) -> bool:
    """Whether a volume is smaller than the largest crop of an experiment, which then would refuse it."""
    extents = config["views"].get("extents") or [config["data"]["size"]]
    *depth, height, width = map(max, zip(*extents, strict=True))
    dataset = ShardedDataset.open(out)
    smallest = [int(dataset.column(name).min()) for name in SIDES[3]]
    return any(side < edge for side, edge in zip(smallest, (*depth, *2 * [max(height, width)]), strict=True))


def experiment_for(info: DatasetInfo) -> str:
    """The small one for images or volumes; phantoms have their own."""
    names = ("phantom3d", "small_dira_moco3d") if info.dims == 3 else ("phantom", "small")
    return names[0 if info.recipe["_target_"] in PHANTOMS else 1]


def batch_of(experiment: str) -> int:
    """Its global batch."""
    return int(_settings(experiment)["data"]["batch"])


@cache
def _settings(experiment: str) -> dict[str, Any]:
    config: Any = OmegaConf.to_container(defaults("pretrain", [f"experiment={experiment}"]))
    return dict(config)
