"""The commands as functions for scripts and notebooks, with their keys as ``settings`` (docs/reference/api.md)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dira_scale.data.labelled import LabelledImages
from dira_scale.data.manifest import ShardedDataset
from dira_scale.errors import UserError
from dira_scale.models.bf16 import autocast
from dira_scale.runs.call import carried_out
from dira_scale.runs.reader import RunReader

__all__ = [
    "LabelledImages", "UserError", "autocast", "embed", "export", "finetune", "localize", "predict", "pretrain",
    "probe", "shard",
]  # fmt: skip
Settings = Mapping[str, Any] | None
Where = str | Path


def shard(out: Where, recipe: str, settings: Settings = None) -> ShardedDataset:
    """Convert images into the sharded dataset ``out``; the same call resumes after an interruption."""
    return ShardedDataset.open(carried_out("shard", out, {"recipe": recipe}, settings))


def pretrain(run: Where, shards: Where, experiment: str = "small", settings: Settings = None) -> RunReader:
    """Train, or resume, the run in folder ``run``. Raises ``RuntimeError`` with the reason if training fails."""
    return RunReader(carried_out("pretrain", run, {"experiment": experiment, "data.shards": shards}, settings))


def finetune(run: Where, shards: Where, task: str, init: Where = "random", settings: Settings = None) -> RunReader:
    """The same on labels or masks, from the weights ``init``; figures of the test split are in ``results.json``."""
    return RunReader(carried_out("finetune", run, {"task": task, "init": init, "data.shards": shards}, settings))


def probe(run: Where, shards: Where, settings: Settings = None) -> dict[str, Any]:
    """Frozen features of ``run`` against labels: the content of ``probe.json``."""
    folder = carried_out("probe", f"{run}/probe", {"run": run, "data.shards": shards}, settings)
    return dict(json.loads((folder / "probe.json").read_text()))


def embed(out: Where, shards: Where, settings: Settings = None) -> Path:
    """Features of every image of ``shards``, of the weights that ``settings`` name by ``run`` or ``init``; ``out``."""
    return carried_out("embed", out, {"data.shards": shards}, settings)


def predict(run: Where, out: Where, shards: Where | None = None, settings: Settings = None) -> Path:
    """A fine-tuned ``run`` on the test split of ``shards``, or on the folder ``images`` of ``settings``; ``out``."""
    return carried_out("predict", out, {"run": run, "data.shards": shards}, settings)


def localize(run: Where, out: Where, shards: Where, settings: Settings = None) -> dict[str, Any]:
    """Where a fine-tuned ``run`` sees labels, against the boxes of ``shards``: the content of ``results.json``."""
    folder = carried_out("localize", out, {"run": run, "data.shards": shards}, settings)
    return dict(json.loads((folder / "results.json").read_text()))


def export(run: Where, settings: Settings = None) -> Path:
    """Write the weights of ``run`` for other libraries; the folder that holds them."""
    return carried_out("export", f"{run}/export", {"run": run}, settings)
