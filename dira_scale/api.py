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

__all__ = ["LabelledImages", "UserError", "export", "pretrain", "probe", "shard"]

Settings = Mapping[str, Any] | None


def shard(out: str | Path, recipe: str, settings: Settings = None) -> ShardedDataset:
    """Convert images into the sharded dataset ``out``; the same call resumes after an interruption."""
    _, folder = _carried_out("shard", out, {"recipe": recipe}, settings)
    return ShardedDataset.open(folder)


def pretrain(run: str | Path, shards: str | Path, experiment: str = "small", settings: Settings = None) -> RunReader:
    """Train, or resume, the run in folder ``run``. Raises ``RuntimeError`` with the reason if training fails."""
    with Errors() as errors:
        code, folder = _carried_out("pretrain", run, {"experiment": experiment, "data.shards": shards}, settings)
    if code in (BAD_INPUT, FAILED):
        raise (UserError if code == BAD_INPUT else RuntimeError)("; ".join(errors) or f"run={run}: see its log.txt")
    return RunReader(folder)


def probe(run: str | Path, shards: str | Path, settings: Settings = None) -> dict[str, Any]:
    """Frozen features of ``run`` against labels: the content of ``probe.json``."""
    _, folder = _carried_out("probe", f"{run}/probe", {"run": run, "data.shards": shards}, settings)
    return dict(json.loads((folder / "probe.json").read_text()))


def export(run: str | Path, settings: Settings = None) -> Path:
    """Write the weights of ``run`` for other libraries; the folder that holds them."""
    return _carried_out("export", f"{run}/export", {"run": run}, settings)[1]


def _carried_out(verb: str, output: str | Path, keys: Mapping[str, Any], settings: Settings) -> tuple[int | None, Path]:
    """Call the function that a verb's module has by its name; what it returns, and where it has written."""
    refuse_in_worker(verb)
    key = VERBS[verb].output
    values = {**keys, key: output, **(settings or {})}
    cfg = compose(verb, [f"{name}={typed(value)}" for name, value in values.items()])
    return getattr(import_module(f"dira_scale.{verb}"), verb)(cfg), Path(cfg[key])
