"""The commands as functions for scripts and notebooks, with their keys as ``settings`` (docs/reference/api.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from etils.epy import lazy_imports

from dira_scale.base.config.compose import configured
from dira_scale.base.config.logs import collected_errors
from dira_scale.base.errors import UserError, require
from dira_scale.base.machine.workers import refuse_in_worker
from dira_scale.command import Command
from dira_scale.commands import COMMANDS
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.runs.exit_codes import BAD_INPUT, FAILED

if TYPE_CHECKING:
    from torch import Tensor

    from dira_scale.judge.evaluation.embeddings import Embeddings
    from dira_scale.train.data.labelled import LabelledImages
    from dira_scale.train.models.bf16 import autocast
    from dira_scale.train.models.network import Encoder
    from dira_scale.train.runs.reader import RunReader

with lazy_imports():
    from dira_scale.judge.evaluation import encoders
    from dira_scale.train import blueprint as blueprints
    from dira_scale.train import inputs, trainer
    from dira_scale.train.data import distort as distortion

__all__ = [
    "Embeddings", "LabelledImages", "UserError", "autocast", "embed", "encoder", "evaluate", "export", "finetune",
    "localize", "predict", "pretrain", "probe", "report", "shard", "views",
]  # fmt: skip
Settings = Mapping[str, Any] | None
Where = str | Path
_OF_TORCH = {
    "Embeddings": "dira_scale.judge.evaluation.embeddings:Embeddings",
    "LabelledImages": "dira_scale.train.data.labelled:LabelledImages",
    "autocast": "dira_scale.train.models.bf16:autocast",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for: archives are sharded without it."""
    if name not in _OF_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require(f"{name} needs", "train", "torch")
    return resolve_name(_OF_TORCH[name])


def shard(out: Where, recipe: str, settings: Settings = None) -> ShardedDataset:
    """Convert images into the sharded dataset ``out``; the same call resumes after an interruption."""
    return ShardedDataset.open(_run("shard", out, {"recipe": recipe}, settings))


def views(shards: Where, experiment: str = "small", settings: Settings = None) -> tuple[list[Tensor], list[Tensor]]:
    """The views of the first training batch, to look at before training: as they are cropped, and as they are distorted
    in stages that restore them; of each view [b, C, *size] in [0, 1]. Nothing is written."""
    _prepare("pretrain")
    keys = {"experiment": experiment, "data.shards": shards, **(settings or {})}
    blueprint = blueprints.blueprint_of("pretrain", configured("pretrain", keys))
    config = blueprint.config
    data = inputs.Inputs(config.data, blueprint.views, config.seed, rank=0, ranks=1)
    with closing(data.train(config.data.batch).iterate(0, 1)) as batches:
        batch = next(batches).to("cpu")
    distorts = [distortion.build(entry) for entry in blueprint.views.entries for _ in range(entry.count)]
    parts = enumerate(zip(distorts, batch.views, batch.distortions, strict=True))
    distorted = [distort(view, drawn, True, batch.lacking(number)) for number, (distort, view, drawn) in parts]
    return list(batch.views), distorted


def pretrain(run: Where, shards: Where, experiment: str = "small", settings: Settings = None) -> RunReader:
    """Train, or resume, the run in folder ``run``. Raises ``RuntimeError`` with the reason if training fails."""
    return _train("pretrain", {"experiment": experiment, "data.shards": shards, "run": run}, settings)


def finetune(run: Where, shards: Where, task: str, init: Where, settings: Settings = None) -> RunReader:
    """Train on labels, masks or numbers from the weights ``init``, or resume; ``results.json`` has the figures. Which
    checkpoint of a run ``init`` is taken, ``settings={"init_stage": …}`` says."""
    return _train("finetune", {"task": task, "init": init, "data.shards": shards, "run": run}, settings)


def probe(run: Where, shards: Where, settings: Settings = None) -> dict[str, Any]:
    """Frozen features of ``run`` against labels: the content of ``probe.json``."""
    folder = _run("probe", f"{run}/probe", {"run": run, "data.shards": shards}, settings)
    return dict(json.loads((folder / "probe.json").read_text()))


def embed(out: Where, shards: Where, settings: Settings = None) -> Path:
    """Features of every image of ``shards``, of the weights that ``settings`` name by ``run`` or ``init``; ``out``."""
    return _run("embed", out, {"data.shards": shards}, settings)


def encoder(run: Where, stage: str | None = None) -> Encoder:
    """The encoder of a run's folder, of the checkpoint ``stage`` as `export` takes it, or of its export, as a torch
    module in evaluation mode: of images [b, 1 or C, *size] in [0, 1] a list of maps, the coarsest last. Raises
    ``UserError``."""
    require("encoder needs", "train", "torch")
    return encoders.stored_encoder(Path(run), stage)


def predict(run: Where, out: Where, shards: Where | None = None, settings: Settings = None) -> Path:
    """A fine-tuned ``run`` on the test split of ``shards``, or on the folder ``images`` of ``settings``; ``out``."""
    return _run("predict", out, {"run": run, "data.shards": shards}, settings)


def evaluate(run: Where, out: Where, shards: Where, settings: Settings = None) -> dict[str, Any]:
    """A fine-tuned ``run`` on the test split of ``shards``, with intervals: the content of ``results.json``."""
    folder = _run("evaluate", out, {"run": run, "data.shards": shards}, settings)
    return dict(json.loads((folder / "results.json").read_text()))


def localize(run: Where, out: Where, shards: Where, settings: Settings = None) -> dict[str, Any]:
    """Compare where a fine-tuned ``run`` sees labels with the boxes of ``shards``: the content of ``results.json``."""
    folder = _run("localize", out, {"run": run, "data.shards": shards}, settings)
    return dict(json.loads((folder / "results.json").read_text()))


def export(run: Where, settings: Settings = None) -> Path:
    """Write the weights of ``run`` for other libraries; the folder that holds them."""
    return _run("export", f"{run}/export", {"run": run}, settings)


def report(run: Where, settings: Settings = None) -> Path:
    """Write the HTML page about ``run``, finished or not; its file."""
    return _run("report", f"{run}/report.html", {"run": run}, settings)


def _prepare(command: str) -> Command:
    """Return the row of ``command``. Raises UserError where torch is missing, or in a worker."""
    refuse_in_worker(command)
    row = COMMANDS[command]
    if row.torch:
        require(f"{command} needs", "train", "torch")
    return row


def _train(command: str, keys: Mapping[str, Any], settings: Settings) -> RunReader:
    _prepare(command)
    return trainer.Trainer(blueprints.blueprint_of(command, configured(command, {**keys, **(settings or {})}))).train()


def _run(command: str, output: Where, keys: Mapping[str, Any], settings: Settings) -> Path:
    """Carry the command out; return where it has written.

    Raises UserError for bad input, RuntimeError for all else that the command says.
    """
    row = _prepare(command)
    key = row.output
    cfg = configured(command, {**keys, key: output, **(settings or {})})
    with collected_errors() as errors:
        row.check_inputs(cfg)
        code = row.carry_out(cfg)
    if code in (BAD_INPUT, FAILED):
        raise (UserError if code == BAD_INPUT else RuntimeError)("; ".join(errors) or f"{key}={cfg[key]}: see log.txt")
    return Path(cfg[key])
