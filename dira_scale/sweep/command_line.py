"""A run's command and its name: values with references resolved, as words; a hash of those that decide the result."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from dira_scale.base.config.compose import path_keys_of
from dira_scale.base.config.keys import as_words, typed, written
from dira_scale.base.config.schema import PathKind
from dira_scale.commands import COMMANDS

REFERENCE = re.compile(r"(?<!\$)\{([a-z]\w*)\}", re.ASCII)  # ${KEY} is an interpolation
DIGEST = 8  # hexadecimal digits
LABEL = 64  # characters of a name before its hash
_path_keys = lru_cache(path_keys_of)  # a composition each
NO_PATHS = ("", "null", "random")  # random: initial weights that are in no file (`init`)


def words_of(name: str, values: Mapping[str, Any], output: str, config_dirs: Sequence[Path]) -> list[str]:
    """The words after ``python -m dira_scale.COMMAND``: ``values`` and the key of the output.

    Local paths are absolute, so that the words mean the same when they are run from another folder.
    """
    paths = path_keys_in(name, values, config_dirs)
    values = {key: _absolute(value) if key.lstrip("+") in paths else value for key, value in values.items()}
    folders = [word for folder in config_dirs for word in ("--config-dir", str(folder))]
    return [*folders, *as_words({**values, COMMANDS[name].output: output})]


def _absolute(value: Any) -> Any:
    """A path, a list of paths or a mapping by path, from this folder; URLs, ``~``, null and random as they are."""
    if isinstance(value, dict):
        return {_absolute(key): item for key, item in value.items()}
    if isinstance(value, list):
        return [_absolute(item) for item in value]
    if not isinstance(value, str) or value in NO_PATHS or value.startswith("~") or "://" in value:
        return value
    return str(Path(value).absolute())


def path_keys_in(command: str, values: Mapping[str, object], config_dirs: Sequence[Path] = ()) -> set[str]:
    """The keys of ``command`` that hold one path or several, under the choices among ``values``.

    Raises UserError if there is no such choice.
    """
    choices = [f"{key}={written(value)}" for key, value in values.items() if "." not in key or "_target_" in key]
    paths = _path_keys(command, tuple(sorted(choices)), tuple(config_dirs))
    return {key for key, kind in paths.items() if kind in (PathKind.ONE, PathKind.SEVERAL)}


def references(value: Any, singly: bool = False) -> set[str]:
    """The phases in ``"{PHASE}"``, wherever in ``value``; ``singly``: but for those that are an item of a list."""
    if isinstance(value, str):
        return set(REFERENCE.findall(value))
    inner = value if isinstance(value, list) else [*value, *value.values()] if isinstance(value, dict) else []
    items = [item for item in inner if not (singly and isinstance(value, list) and reference(item))]
    return {name for item in items for name in references(item, singly)}


def resolved(value: Any, outputs: Mapping[str, str], every: Mapping[str, list[str]] = MappingProxyType({})) -> Any:
    """``value`` with each reference replaced by its phase's output.

    Args:
        every: outputs of phases that are read as a whole: an item of a list that refers to one becomes all of these.
    """
    if isinstance(value, str):
        return REFERENCE.sub(lambda match: outputs[match[1]], value)
    if isinstance(value, dict):
        return {resolved(key, outputs): resolved(item, outputs, every) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    several = [every.get(reference(item)) or [resolved(item, outputs, every)] for item in value]
    return [item for items in several for item in items]


def reference(value: Any) -> str:
    """The phase that ``value`` refers to, and says nothing else; empty if there is none."""
    match = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return match[1] if match else ""


def digest_of(command: str, identity: Mapping[str, Any], varied: Mapping[str, Any]) -> str:
    """The hash in a run's name: of the command and the values that decide its result, wherever and however written.

    Args:
        identity: KEY: value, with ``PHASE/DIGEST`` of needed runs for their outputs.
        varied: the phase's values that are not the same for all runs.
    """
    free = COMMANDS[command].execution  # without effect on the result; it counts where the sweep varies it
    named = {
        key: value
        for key, value in identity.items()
        if key in varied or not any(key == prefix or key.startswith(f"{prefix}.") for prefix in free)
    }
    return hashlib.sha256(json.dumps([command, _canonical(named)]).encode()).hexdigest()[:DIGEST]


def name_of(digest: str, varied: Mapping[str, Any]) -> str:
    """A name for a new run, for readers: text values as they are, numbers behind the last part of their key.

    Args:
        varied: values by which the sweep's runs differ, those of the needed runs included.
    """
    parts = []
    for key, value in varied.items():
        text = "_".join(map(str, value)) if isinstance(value, list) else str(value).rpartition("/")[2]
        parts.append(text if isinstance(value, str) else f"{key.rpartition('.')[2]}{text}")
    label = re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(parts))[:LABEL].strip("-._")
    return "-".join(filter(None, [label, digest]))


@lru_cache
def read(text: str) -> Any:
    """The value that is typed as ``text``: as Hydra's grammar has it; the text itself where that does not accept it."""
    try:
        override = OverridesParser.create().parse_override(f"key={text}")
    except HydraException:
        return text
    return text if override.is_sweep_override() else override.value()


def _canonical(value: Any) -> Any:
    """``value`` with all that it holds as plain text and keys sorted: quotes and the order of keys say nothing."""
    if isinstance(value, dict):
        return {str(key): _canonical(value[key]) for key in sorted(value, key=str)}
    return [_canonical(item) for item in value] if isinstance(value, list | tuple) else typed(value)
