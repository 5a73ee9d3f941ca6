"""Keys that say how held-out images are seen. Reading them needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING, DictConfig

from dira_scale.base.arguments import Above, AtLeast
from dira_scale.base.config.schema import Schema, one_of, path_field, paths_field, setting, several
from dira_scale.base.errors import UserError
from dira_scale.judge.tasks.task import FINETUNE
from dira_scale.train.runs.description import Best, Description

CENTRE, TEN_CROPS = "centre", "ten_crops"
WHOLE, SLIDING = "whole", "sliding"  # how masks of large images are predicted
POOLED, MAP = "pooled", "map"  # what is kept of a layer
PIXELS = 16  # the side to which raw pixels are averaged: 256 features, a strong baseline on small radiograph sets
SIZE = 224  # of images, without a run that has a view size
BY_VOLUMES = Best("volume_dice", "max", 0.9)  # of whole volumes, nnU-Net's moving average (nnunet_logger.py)


@dataclass
class OfRun(Schema):
    """The keys of all commands that look at data with a run's network."""

    run: str = path_field()
    trust: Any = setting(several(str), None)
    reach: Any = paths_field()
    out: str = path_field()


@dataclass
class LookedAt(Schema):
    shards: str = path_field()
    split: str = MISSING
    workers: int | None = setting(AtLeast(1), None)


@dataclass
class Evaluate(Schema):
    """The settings by which held-out images are seen."""

    crops: str = setting(one_of(CENTRE, TEN_CROPS))
    share: float = setting(Above(0, 1))
    window: str | None = setting(one_of(WHOLE, SLIDING), None)
    temperature: bool = MISSING

    def window_of(self, dimensions: int) -> str:
        """Return the window of masks of images (2) or volumes (3): as the usual views of training show them."""
        return self.window or (WHOLE if dimensions == 2 else SLIDING)


def require_finetuned(run: str, described: Description) -> None:
    """Raise UserError for a run of another command."""
    if described.command != FINETUNE:
        raise UserError(f"run={run} is of {described.command}: fine-tune it first (docs/how-to/finetune.md)")


def require_masks(window: str | None, pooled: bool, learned: str) -> None:
    """Raise UserError for a ``window`` of a ``pooled`` network, which has no masks but what it has ``learned``."""
    if window is not None and pooled:
        raise UserError(f"window={window}: windows are of masks, and this network has {learned}; leave it out")


def check(cfg: DictConfig, runs: Mapping[str, Description]) -> None:
    """Check ``runs``, by their names, before they have trained.

    Raises UserError for one that is not fine-tuned, or has no masks to look at through ``window``.
    """
    for name, run in runs.items():
        require_finetuned(name, run)
        require_masks(cfg.window, run.network.head == "pooled", ", ".join(run.output.names) or "labels")
