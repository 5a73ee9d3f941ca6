"""The encoder whose features are computed: that of a run, of a file of weights, or a random one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from omegaconf import DictConfig

from dira_scale.base.config.border import at
from dira_scale.base.errors import UserError
from dira_scale.judge.evaluation.config import MAP, SIZE
from dira_scale.judge.evaluation.embeddings import Weights
from dira_scale.judge.evaluation.encoders import LAST, fake_encoder, levels
from dira_scale.judge.evaluation.features import PATCHES, Layer
from dira_scale.train.models.architecture import Architecture, TimmUNet
from dira_scale.train.models.network import Encoder
from dira_scale.train.models.normalise import normalise_input
from dira_scale.train.models.start import licence_of, start_weights
from dira_scale.train.models.weights import trained_encoder, weights_hash
from dira_scale.train.runs.choice import check_stage
from dira_scale.train.runs.description import NORMALISATIONS, Description, InputDescription
from dira_scale.train.runs.reader import RunReader


@dataclass(frozen=True)
class FeatureSource:
    """An encoder that takes images of [0, 1], in evaluation mode. ``level``: of its pyramid, or tokens; ``channels``:
    the names of those that it has learned, if they are known."""

    name: str
    encoder: Encoder
    weights: Weights
    input: InputDescription
    level: Layer
    channels: tuple[str, ...] = ()


def open_source(cfg: DictConfig) -> FeatureSource:
    """Open the encoder of ``run`` or of ``init``. Raises UserError naming the key."""
    run = RunReader(Path(cfg.run)) if cfg.run else None
    input = asked_input(cfg, run.description if run else None)
    if run is not None:
        tensors, state, stage = run.load(cfg.stage)
        encoder = trained_encoder(run.description, tensors)
        name = run.folder.resolve().name
        step, licence = state["step"], licence_of(run.folder)
        weights = Weights("run", encoder.name, stage, step, None, weights_hash(encoder), licence)
    else:
        with at("model", {"size": "data.size"}), torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.seed)  # also of what no file has: a plain transformer's finer levels
            encoder = architecture_of(cfg).build_encoder(input.sides)
        start = start_weights(cfg.init, encoder)
        name, licence = Path(cfg.init).name, start.licence if start else None
        kind: Literal["init", "random"] = "init" if start else "random"
        weights = Weights(kind, encoder.name, None, None, None if start else cfg.seed, weights_hash(encoder), licence)
    normalise_input(encoder, input)
    (level,) = levels(cfg.layer, encoder).values()
    if cfg.what == MAP and cfg.layer == LAST and encoder.patch:
        level = PATCHES
    return FeatureSource(name, encoder.eval(), weights, input, level, run.description.data.channels if run else ())


def check(cfg: DictConfig, runs: Mapping[str, Description]) -> None:
    """Look at stage, size, encoder and level of a run that has not trained yet. Raises UserError as `embed` would."""
    for name, run in runs.items():
        check_stage(cfg.stage, run, name)
    read = next(iter(runs.values()), None)
    input = asked_input(cfg, read)
    model, sides = (read.network.architecture, read.input.sides) if read else (vars(architecture_of(cfg)), input.sides)
    levels(cfg.layer, fake_encoder(model, sides))


def asked_input(cfg: DictConfig, run: Description | None) -> InputDescription:
    """Return the run's input, changed as asked for. Raises UserError for a size that the encoder cannot take."""
    if (run is None) == (cfg.init is None):
        raise UserError("name the weights by one of run=… and init=…" + (", not both" if run else ""))
    if run is not None and cfg.model.encoder is not None:
        raise UserError(f"model.encoder={cfg.model.encoder}: the run has {run.network.name}; leave it out")
    if run is None and cfg.model.encoder is None:
        raise UserError(f"model.encoder must be given with init={cfg.init}: model.encoder=resnet18")
    before = run.input if run else InputDescription((SIZE, SIZE))
    size = before.size if cfg.data.size is None else len(before.size) * (cfg.data.size,)
    if run is not None and size != before.size and fake_encoder(run.network.architecture, run.input.sides).fixed_size:
        sides = " x ".join(map(str, before.size))
        raise UserError(f"data.size={cfg.data.size}: {run.network.name} of the run takes images of {sides} only")
    if cfg.normalise is None:
        return replace(before, size=size)
    return InputDescription(size, before.channels, before.window, **NORMALISATIONS.get(cfg.normalise, {}))


def architecture_of(cfg: DictConfig) -> Architecture:
    """Return the architecture of ``init``'s encoder, a timm backbone."""
    return TimmUNet(encoder=cfg.model.encoder, decoder_channels=[1], zero_init_residual=False)
