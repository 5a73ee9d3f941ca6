"""A run's identity, which is a part of its configuration, and the name computed from it."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from dira_scale.base.config.keys import flattened, typed
from dira_scale.commands import COMMANDS

# A run may go on to more `steps`; `data.shards` may move, where `datasets`, its content and weights, may not change, as
# may a file of permutations, not its `views_content`, and one of weights, not its `repeats`; in what a protocol
# `differs` is told in words; what was `used`, `leak`, `started` and `optim.chosen` are recorded by the run.
FREE = (
    "steps", "data.shards", "precision_used", "adversary_precision_used", "threads_used", "mesh_used", "leak",
    "started", "optim.chosen", "protocol.differs", "views.corruptions.order.file", "data.weights",
)  # fmt: skip

# Keys of identity that older versions did not have, with the value by which they worked: at it, a run keeps its name
# and goes on. Whoever adds a key of identity adds it here.
ADDED = {
    "views.pair": "image", "views.channel_dropout": 0.0, "views.jitter.saturation": 0.0, "views.jitter.hue": 0.0,
    "views.grey": 0.0, "trained": None, "init_stage": None, "model.bias_axes": "zyx",
    "model.positions": None, "method.rises": None, "method.base.rises": None, "views.foreground": 0.0, "data.crops": 1,
    "validate.volumes": None, "validate.windows": 1000, "normalise": None, "task.background": True,
    "stages.*.size": None, "frozen_blocks": 0,
    **{
        f"method.{of}{key}": value
        for of in ("", "base.")
        for key, value in {"weights.gram": 2.0, "anchor": None, "anchor_every": None}.items()
    },
}  # fmt: skip


SENTENCES = {
    "datasets": "other images, labels or weights in data.shards",
    "foreground": "the masks have other voxels of the classes that are learned (foreground.parquet)",
    "repeats": "data.weights draws other images, or others more often",
    "teachers": "method.teachers: other weights than the run began with, in the same place",
    "views_content": "views.corruptions.order.file has other permutations",
    "selection": "data.fraction, data.exclude and data.negatives choose other rows: other patients or labels in "
    "data.shards",
}


def execution(command: str) -> tuple[str, ...]:
    """Keys that may change between two calls on one run of ``command``: how and where it is computed. All others are
    its identity."""
    return (*COMMANDS[command].execution, *FREE)


def identity(config: dict[str, Any], execution: Sequence[str]) -> dict[str, Any]:
    """The flattened keys of a configuration that determine a run's result; the run's name is their hash.

    ``execution``: the keys without effect on it, of :func:`execution` or the run's description. A rate that the run
    chooses follows from the others.
    """
    flat = {key: value for key, value in flattened(config) if not _as_before(key, value)}
    without = set(execution)
    if flat.get("optim.choose"):
        without.add("optim.optimizer.lr")
    if flat.get("trained") != "lora":
        without.add("lora")
    return {k: v for k, v in flat.items() if not any(k == e or k.startswith(e + ".") for e in without)}


def seedless(config: dict[str, Any], execution: Sequence[str]) -> str:
    """Return a text that is equal for the configurations of runs that differ only in their seeds. A key that is null,
    and one that an older configuration does not have, are alike."""
    flat = identity(config, (*execution, "seed"))
    return repr(sorted((key, value) for key, value in flat.items() if value is not None))


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
    earlier, later = ADDED | old, ADDED | new
    return [f"{key}: {SENTENCES.get(key) or f'{typed(earlier.get(key))} -> {typed(later.get(key))}'}" for key in keys]


def _as_before(key: str, value: Any) -> bool:
    """Return whether ``key`` is in ``ADDED`` with this ``value``; of any stage there is one entry."""
    general = re.sub(r"^stages\.[^.]+", "stages.*", key)
    return general in ADDED and value == ADDED[general]
