"""The commands as functions for scripts and notebooks, with their keys as ``settings`` (docs/reference/api.md)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dira_scale import export as export_verb
from dira_scale import pretrain as pretrain_verb
from dira_scale import probe as probe_verb
from dira_scale.config.compose import compose
from dira_scale.config.keys import typed
from dira_scale.config.logs import Errors
from dira_scale.data.labelled import LabelledImages
from dira_scale.data.manifest import ShardedDataset
from dira_scale.errors import UserError
from dira_scale.ingest.commands import shard as shard_verb
from dira_scale.machine.workers import refuse_in_worker
from dira_scale.runs.exit_codes import BAD_INPUT, FAILED
from dira_scale.runs.reader import RunReader

__all__ = ["LabelledImages", "UserError", "export", "pretrain", "probe", "shard"]

Settings = Mapping[str, Any] | None


def shard(out: str | Path, recipe: str, settings: Settings = None) -> ShardedDataset:
    """Convert images into the sharded dataset ``out``; the same call resumes after an interruption."""
    shard_verb(_composed("shard", {"recipe": recipe, "out": out}, settings))
    return ShardedDataset.open(out)


def pretrain(run: str | Path, shards: str | Path, experiment: str = "small", settings: Settings = None) -> RunReader:
    """Train, or resume, the run in folder ``run``. Raises ``RuntimeError`` with the reason if training fails."""
    keys = {"experiment": experiment, "data.shards": shards, "run": run}
    with Errors() as errors:
        code = pretrain_verb.pretrain(_composed("pretrain", keys, settings))
    if code in (BAD_INPUT, FAILED):
        raise (UserError if code == BAD_INPUT else RuntimeError)("; ".join(errors) or f"run={run}: see its log.txt")
    return RunReader(Path(run))


def probe(run: str | Path, shards: str | Path, settings: Settings = None) -> dict[str, Any]:
    """Frozen features of ``run`` against labels: the content of ``probe.json``."""
    probe_verb.probe(cfg := _composed("probe", {"run": run, "data.shards": shards, "out": f"{run}/probe"}, settings))
    return dict(json.loads((Path(cfg.out) / "probe.json").read_text()))


def export(run: str | Path, settings: Settings = None) -> Path:
    """Write the weights of ``run`` for other libraries; the folder that holds them."""
    export_verb.export(cfg := _composed("export", {"run": run, "out": Path(run) / "export"}, settings))
    return Path(cfg.out)


def _composed(verb: str, keys: Mapping[str, Any], settings: Settings) -> DictConfig:
    refuse_in_worker(verb)
    return compose(verb, [f"{key}={typed(value)}" for key, value in {**keys, **(settings or {})}.items()])
