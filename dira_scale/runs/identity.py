"""A run's identity, which is a part of its configuration, and the name computed from it."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from dira_scale.verbs import VERBS

# A run may go on to more `steps`; `data.shards` may move, where `datasets`, its content and weights, may not change;
# `precision_used`, `threads_used` and `leak` are recorded by the run.
FREE = ("steps", "data.shards", "precision_used", "threads_used", "leak")


def execution(verb: str) -> tuple[str, ...]:
    """Keys that may change between two calls on one run of ``verb``: how and where it is computed. All others are its
    identity."""
    return (*VERBS[verb].execution, *FREE)


# Keys added to the identity later, with the value that all earlier runs had. At that value they are left out: names
# stay the same, and an older config.yaml without the key has the same identity.
# (`data.missing=skip` changes what is trained on.)
LATER = {"views_version": 1, "views.pair": "image", "data.missing": "stop", "method.target_scale": 1.0,
         "model._target_": "TimmUNet",
         "data.fraction": 1.0, "data.fraction_seed": 0, "data.negatives": None, "data.fraction_from": "start",
         "data.exclude": None, "model.bn_group_size": None, "shuffle_version": 1,
         "optim.factor": 0.5, "optim.patience": 5, "optim.step_epochs": 50,
         "views.turns": 0.0, "views.transpose": 0.0, "data.spacing": "stored", "data.range": None, "data.pad": False,
         "adversary.penalty": 100.0,
         "task.scored": None, "channels": None, "evaluate.window": None, "evaluate.temperature": False}  # fmt: skip
# Of our methods; how they shuffle keys does not matter to a run that shuffles none, others record `shuffle_version`.
SHUFFLING = ("MoCo", "PCRL", "PCRLReleased")

SENTENCES = {
    "datasets": "other images, labels or weights in data.shards",
    "selection": "data.fraction, data.exclude and data.negatives choose other rows: other patients or labels in "
    "data.shards",
    "shuffle_version": "keys are shuffled over the whole batch (1: method.shuffle=batch; of DiRA: method.base.shuffle="
    "batch) or in blocks of BatchNorm groups (2: blocks)",
}


def identity(config: dict[str, Any], execution: Sequence[str]) -> dict[str, Any]:
    """The flattened keys of a configuration that determine a run's result; the run's name is their hash.

    ``execution``: the keys without effect on it, of :func:`execution` or the run's description.
    """
    flat = {key: value for key, value in _flatten(config).items() if (key, value) not in LATER.items()}
    for key in ("method.shuffle", "method.base.shuffle"):
        if flat.get(key.replace("shuffle", "_target_")) in SHUFFLING:
            flat.pop(key, None)
    return {k: v for k, v in flat.items() if not any(k == e or k.startswith(e + ".") for e in execution)}


def seedless(config: dict[str, Any], execution: Sequence[str]) -> str:
    """What the configurations of runs have in common that differ in their seeds alone."""
    return repr(sorted(identity(config, (*execution, "seed")).items(), key=lambda item: item[0]))


def run_name(config: dict[str, Any], execution: Sequence[str]) -> str:
    """Twelve hexadecimal digits: a hash of the run's identity."""
    return hashlib.sha256(json.dumps(identity(config, execution), sort_keys=True).encode()).hexdigest()[:12]


def differences(before: dict[str, Any], now: dict[str, Any], execution: Sequence[str]) -> list[str]:
    """``key: old value -> new value`` for each key by which the identities of two configurations differ.

    A sentence with those whose values say nothing to a reader; hashes are left out.
    """
    old, new = identity(before, execution), identity(now, execution)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if any(key == "datasets" or key.startswith("data.") for key in keys):
        keys = [key for key in keys if key != "selection"]  # follows from these
    values = {key: f"{old.get(key, LATER.get(key))} -> {new.get(key, LATER.get(key))}" for key in keys}
    values |= {key: SENTENCES[key] for key in keys if key in ("datasets", "selection")}
    if "shuffle_version" in keys:
        values["shuffle_version"] += f", {SENTENCES['shuffle_version']}"
    return [f"{key}: {values[key]}" for key in keys]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for name, child in value.items() for k, v in _flatten(child, f"{prefix}{name}.").items()}
    return {prefix[:-1]: value}
