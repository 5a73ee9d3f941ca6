"""The keys of a configuration, and its values as typed on a command line."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

PLAIN = re.compile(r"([a-z0-9]+://|\.{0,2}/)?[A-Za-z_][\w./-]*", re.ASCII)  # text in Hydra's grammar, but for these:
SPECIAL = {"null", "true", "false", "nan", "inf"}
SYNTAX, ESCAPED = re.compile(r"[\\()\[\]{}:=, \t]"), r"\\\g<0>"  # in a mapping's key, which has no quotes


def leaves(config: DictConfig) -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values as written: interpolations unresolved, required values as ``???``."""
    return flattened(OmegaConf.to_container(config, resolve=False))


def flattened(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of nested dictionaries, with their values."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from flattened(value, f"{prefix}{key}.")
    else:
        yield prefix[:-1], node


def keys(config: DictConfig, prefix: str = "") -> list[str]:
    """All dotted keys, including nodes, each with ``prefix``."""
    names = [key.split(".") for key, _ in leaves(config)]
    return sorted({prefix + ".".join(parts[: n + 1]) for parts in names for n in range(len(parts))})


def typed(value: object) -> str:
    """A value for people to read, as typed on a command line: ``null``, ``true``, ``[a, b]``, ``{a: 1}``."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {typed(item)}" for key, item in value.items()) + "}"
    return f"[{', '.join(map(typed, value))}]" if isinstance(value, list | tuple) else str(value)


def as_words(values: Mapping[str, object]) -> list[str]:
    """``KEY=VALUE`` for each value, of which a command composes exactly these. ``${KEY}`` stays an interpolation."""
    return [f"{key}={written(value)}" for key, value in values.items()]


def written(value: object) -> str:
    """A value in Hydra's grammar: text in quotes where they are needed, lists and mappings with all that they hold."""
    match value:
        case Path():
            return written(str(value))
        case str() if PLAIN.fullmatch(value) and value.lower() not in SPECIAL:
            return value
        case str():
            return QuotedString(value, Quote.single).with_quotes()
        case list() | tuple():
            return f"[{','.join(map(written, value))}]"
        case dict():
            items = (f"{SYNTAX.sub(ESCAPED, str(key))}:{written(item)}" for key, item in value.items())
            return "{" + ",".join(items) + "}"
    return typed(value)
