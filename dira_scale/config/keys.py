"""The keys of a configuration, and its values as typed on a command line."""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf


def leaves(config: DictConfig) -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values as written: interpolations unresolved, required values as ``???``."""

    def walk(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                yield from walk(value, f"{prefix}.{key}" if prefix else str(key))
        else:
            yield prefix, node

    yield from walk(OmegaConf.to_container(config, resolve=False), "")


def keys(config: DictConfig, prefix: str = "") -> list[str]:
    """All dotted keys, including nodes, each with ``prefix``."""
    names = [key.split(".") for key, _ in leaves(config)]
    return sorted({prefix + ".".join(parts[: n + 1]) for parts in names for n in range(len(parts))})


def typed(value: object) -> str:
    """A value as typed on a command line: ``null``, ``true``, ``[a, b]``."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{', '.join(map(typed, value))}]" if isinstance(value, list | tuple) else str(value)
