"""The commands as functions for scripts and notebooks, with their keys as ``settings`` (docs/reference/api.md)."""

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from dira_scale.config.compose import compose
from dira_scale.config.keys import typed
from dira_scale.config.logs import Errors
from dira_scale.data.labelled import LabelledImages
from dira_scale.data.manifest import ShardedDataset
from dira_scale.errors import UserError
from dira_scale.machine.workers import refuse_in_worker
from dira_scale.runs.exit_codes import BAD_INPUT, FAILED
from dira_scale.runs.reader import RunReader
from dira_scale.verbs import VERBS

__all__ = ["LabelledImages", "UserError", "embed", "export", "finetune", "pretrain", "probe", "shard"]
Settings = Mapping[str, Any] | None
Where = str | Path


def shard(out: Where, recipe: str, settings: Settings = None) -> ShardedDataset:
    """Convert images into the sharded dataset ``out``; the same call resumes after an interruption."""
    return ShardedDataset.open(_carried_out("shard", out, {"recipe": recipe}, settings))


def pretrain(run: Where, shards: Where, experiment: str = "small", settings: Settings = None) -> RunReader:
    """Train, or resume, the run in folder ``run``. Raises ``RuntimeError`` with the reason if training fails."""
    return RunReader(_carried_out("pretrain", run, {"experiment": experiment, "data.shards": shards}, settings))


def finetune(run: Where, shards: Where, task: str, init: Where = "random", settings: Settings = None) -> RunReader:
    """The same on labels or masks, from the weights ``init``; figures of the test split are in ``results.json``."""
    return RunReader(_carried_out("finetune", run, {"task": task, "init": init, "data.shards": shards}, settings))


def probe(run: Where, shards: Where, settings: Settings = None) -> dict[str, Any]:
    """Frozen features of ``run`` against labels: the content of ``probe.json``."""
    folder = _carried_out("probe", f"{run}/probe", {"run": run, "data.shards": shards}, settings)
    return dict(json.loads((folder / "probe.json").read_text()))


def embed(out: Where, shards: Where, settings: Settings = None) -> Path:
    """Features of every image of ``shards``, of the weights that ``settings`` name by ``run`` or ``init``; ``out``."""
    return _carried_out("embed", out, {"data.shards": shards}, settings)


def export(run: Where, settings: Settings = None) -> Path:
    """Write the weights of ``run`` for other libraries; the folder that holds them."""
    return _carried_out("export", f"{run}/export", {"run": run}, settings)


def _carried_out(verb: str, output: Where, keys: Mapping[str, Any], settings: Settings) -> Path:
    """Call the function that a verb's module has by its name; where it has written."""
    refuse_in_worker(verb)
    values = {**keys, (key := VERBS[verb].output): output, **(settings or {})}
    cfg = compose(verb, [f"{name}={typed(value)}" for name, value in values.items()])
    with Errors() as errors:
        code = getattr(import_module(f"dira_scale.{verb}"), verb)(cfg)
    if code in (BAD_INPUT, FAILED):
        raise (UserError if code == BAD_INPUT else RuntimeError)("; ".join(errors) or f"{key}={cfg[key]}: see log.txt")
    return Path(cfg[key])
