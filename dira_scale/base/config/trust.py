"""The classes that may be imported by their paths, and the addresses of stores and servers that may be read.

A run, an export or a file of weights may be a stranger's. It names classes of networks and tasks: none is imported
unless it is registered (base/config/registry.py), or its module was named by ``trust=MODULE``, or the same class was
typed on this command line. It names addresses, which could be of machines that only this one can reach: those are read
that were typed, as ``reach=ADDRESS`` or as another key.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.base.errors import UserError

KNOWN = ("torch.optim", "timm.optim")  # the modules of others that configs/ name
_TRUSTED = set[str]()  # modules, and classes that were typed, with their modules' names
_ALLOWED = set[str]()  # addresses


def trust(names: Sequence[str]) -> None:
    """From now on, in this process, classes of these modules, or of these names, may be imported."""
    _TRUSTED.update(names)


def trust_typed(config: DictConfig) -> None:
    """Trust what a configuration names, which was composed of what the user has typed: the modules of its classes and
    of its key ``trust``, and all addresses."""
    parts = [*_parts(OmegaConf.to_container(config))]
    trust([str(part["_target_"]) for part in parts if isinstance(part, dict) and "_target_" in part])
    allow(part for part in parts if isinstance(part, str))
    named = config.get("trust") or []  # checked with the other keys, later
    trust([str(name) for name in (named if isinstance(named, Iterable) and not isinstance(named, str) else [named])])


def require_trusted(target: object, key: str) -> None:
    """Raise UserError, before anything is imported, for a class that nobody but a folder has named."""
    name = str(target)
    if "__main__" in name.split(".")[1:]:
        raise UserError(f"{key}: {name} is in a program, which importing would run; name a class of a module")
    parts = name.split(".")  # of a.b.C: a, a.b and a.b.C
    if not {*KNOWN, *_TRUSTED} & {".".join(parts[: n + 1]) for n in range(len(parts))}:
        raise UserError(
            f"{key}: {name} is code of others, named by a folder and not by you; if you trust it, add "
            f"trust={name.rpartition('.')[0] or name}"
        )


def _parts(node: Any) -> Iterator[Any]:
    """Yield ``node`` and all that is in it, keys too."""
    yield node
    if isinstance(node, dict | list):
        for part in [*node, *node.values()] if isinstance(node, dict) else node:  # weighted addresses are keys
            yield from _parts(part)


def allow(addresses: Iterable[str]) -> None:
    """Let these addresses and all below them be read from now on, in this process."""
    _ALLOWED.update(path for path in addresses if "://" in path)


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
