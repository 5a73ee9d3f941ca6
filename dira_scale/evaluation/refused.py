"""What `probe` and `export` refuse of a run before it has trained: found from its configuration, without weights."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from omegaconf import DictConfig

from dira_scale.evaluation.comparison import architecture
from dira_scale.evaluation.encoders import levels, timm_name
from dira_scale.models import formats
from dira_scale.models.encoder import build_encoder
from dira_scale.models.pyramid import TimmEncoder
from dira_scale.runs.reader import LATEST, check_stage, stages_of

Configurations = Mapping[str, Mapping[str, Any]]


def check_probe(cfg: DictConfig, runs: Configurations) -> None:
    """Look at stage, encoder, size and levels. ``runs``: the configurations of those that it reads, by their names.

    Raises UserError as `probe` would.
    """
    for name, config in runs.items():
        check_stage(cfg.stage, stages_of(config), name)
    levels(cfg.layer, _encoder(*architecture(cfg, [*runs.values()])))


def check_export(cfg: DictConfig, runs: Configurations) -> None:
    """Look at stage and formats. Raises UserError as `export` would."""
    for name, config in runs.items():
        stages = stages_of(config)
        check_stage(cfg.stage, stages, name)
        until = len(stages) if cfg.stage in (None, LATEST) else [*stages].index(cfg.stage) + 1
        decoder = formats.trains_decoder([*stages.values()][:until])
        encoder = _encoder(timm_name(config), config["data"]["size"])
        for format in [cfg.formats] if isinstance(cfg.formats, str) else cfg.formats or []:
            formats.check(format, encoder, decoder)


@lru_cache
def _encoder(name: str, size: int) -> TimmEncoder:
    with torch.device("meta"):
        return build_encoder(name, size=size)
