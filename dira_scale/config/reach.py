"""Which addresses of stores and servers may be read: those that were typed, as ``reach=ADDRESS`` or as another key.

A run or an export may be a stranger's, and names addresses, which could be of machines that only this one can reach.
"""

from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.errors import UserError

_ALLOWED = set[str]()


def allow(addresses: Iterable[str]) -> None:
    """Let these addresses and all below them be read from now on, in this process."""
    _ALLOWED.update(path for path in addresses if "://" in path)


def allow_typed(config: DictConfig) -> None:
    """Allow all addresses in a configuration, which was composed of what the user has typed."""
    allow(_texts(OmegaConf.to_container(config)))


def may_ask(path: str) -> bool:
    """Return whether ``path`` is on this machine, or an address that was allowed."""
    if "://" not in path or path.startswith("file://"):
        return True
    return any(f"{path.rstrip('/')}/".startswith(f"{address.rstrip('/')}/") for address in _ALLOWED)


def require_asked(path: str, what: str) -> None:
    """Raise UserError, before anything is read, for an address that only a run names."""
    if not may_ask(path):
        raise UserError(f"{what} in {path}: {beyond(path)}")


def beyond(path: str) -> str:
    return f"not looked up, as nobody but the run names that address; reach={path} asks there"


def _texts(node: Any) -> Iterable[str]:
    if isinstance(node, dict | list):
        for value in [*node, *node.values()] if isinstance(node, dict) else node:  # weighted addresses are keys
            yield from _texts(value)
    elif isinstance(node, str):
        yield node
