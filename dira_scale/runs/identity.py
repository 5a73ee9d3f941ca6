"""What a run's configuration fixes: its identity, and the name that follows from it."""

import hashlib
import json
from typing import Any

# May change between two calls on one run: how and where it is computed, not what. All else is the run's identity.
# (`data.shards` may move; `datasets`, their content and weights, may not.)
EXECUTION = ("run", "steps", "parallel", "log_every", "checkpoint", "data.workers", "data.prefetch", "data.loader",
             "data.shards",
             "validate.pictures", "validate.restored", "health", "watchdog")  # fmt: skip
# Keys that came into identity later, with the value that all runs before had: at that value they are left out, so that
# names stay and an older run's config.yaml, which lacks the key, counts as having it.
LATER = {"views_version": 1}


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The flattened fields of a configuration that decide a run's result; its name is the hash of these."""
    flat = {key: value for key, value in _flatten(config).items() if (key, value) not in LATER.items()}
    return {k: v for k, v in flat.items() if not any(k == e or k.startswith(e + ".") for e in EXECUTION)}


def run_name(config: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that name a run's identity."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:12]


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """``key: old value -> new value`` for each key in which the identities of two configurations differ."""
    old, new = identity(before), identity(now)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return [f"{key}: {old.get(key, LATER.get(key))} -> {new.get(key, LATER.get(key))}" for key in keys]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for name, child in value.items() for k, v in _flatten(child, f"{prefix}{name}.").items()}
    return {prefix[:-1]: value}
