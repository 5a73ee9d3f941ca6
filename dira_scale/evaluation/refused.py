"""What `probe`, `embed` and `export` refuse of a run that has not trained yet, by its description."""

import json
from collections.abc import Mapping
from functools import lru_cache

import torch
from omegaconf import DictConfig

from dira_scale.evaluation.embedding.encoder import architecture_of, asked_input
from dira_scale.evaluation.encoders import levels
from dira_scale.evaluation.sources import compared_network
from dira_scale.models import formats
from dira_scale.models.architecture import architecture
from dira_scale.models.network import Encoder
from dira_scale.runs.description import Description
from dira_scale.runs.reader import LATEST, check_stage

Descriptions = Mapping[str, Description]


def check_probe(cfg: DictConfig, runs: Descriptions) -> None:
    """Look at stage, encoder, size and levels. ``runs``: those that it reads, by their names.

    Raises UserError as `probe` would.
    """
    if cfg.embeddings is not None:
        return  # are read when they are there
    for name, run in runs.items():
        check_stage(cfg.stage, run, name)
    model, size = compared_network(cfg, [*runs.values()])
    levels(cfg.layer, _encoder(json.dumps(vars(model)), size))


def check_embed(cfg: DictConfig, runs: Descriptions) -> None:
    """Look at stage, size, encoder and level. Raises UserError as `embed` would."""
    for name, run in runs.items():
        check_stage(cfg.stage, run, name)
    read = next(iter(runs.values()), None)
    input = asked_input(cfg, read)
    model, sides = (read.network.architecture, read.input.sides) if read else (vars(architecture_of(cfg)), input.sides)
    levels(cfg.layer, _encoder(json.dumps(dict(model)), sides))


def check_export(cfg: DictConfig, runs: Descriptions) -> None:
    """Look at stage and formats. Raises UserError as `export` would."""
    for name, run in runs.items():
        check_stage(cfg.stage, run, name)
        decoder = run.trains_decoder(None if cfg.stage == LATEST else cfg.stage)
        encoder = _encoder(json.dumps(run.network.architecture), run.input.sides)
        for format in [cfg.formats] if isinstance(cfg.formats, str) else cfg.formats or []:
            formats.check(format, encoder, decoder, run.network.head == "pooled")


@lru_cache
def _encoder(model: str, size: int | tuple[int, ...]) -> Encoder:
    """Of the node ``model`` as JSON. Its tensors have no memory."""
    with torch.device("meta"):
        return architecture(json.loads(model)).build_encoder(size)
