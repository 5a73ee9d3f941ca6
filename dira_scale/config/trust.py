"""Which classes may be imported by their paths: those that were typed, and those of modules that were trusted.

A run, an export or a file of weights may be a stranger's, and names classes of networks and tasks. None of these is
imported unless it is registered (config/registry.py), or its module was named by ``trust=MODULE``, or the same class
was typed on this command line.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.errors import UserError

KNOWN = ("torch.optim", "timm.optim")  # the modules of others that configs/ name
_TRUSTED = set[str]()  # modules, and classes that were typed, with their modules' names


def trust(names: Sequence[str]) -> None:
    """From now on, in this process, classes of these modules, or of these names, may be imported."""
    _TRUSTED.update(names)


def trust_typed(config: DictConfig) -> None:
    """Trust the modules of all classes that a configuration names, which was composed of what the user has typed, and
    of the modules of its key ``trust``."""
    trust([*_targets(OmegaConf.to_container(config))])
    named = config.get("trust") or []
    trust([named] if isinstance(named, str) else [*named])


def require_trusted(target: object, key: str) -> None:
    """Raise UserError, before anything is imported, for a class that nobody but a folder has named."""
    name = str(target)
    if "__main__" in name.split(".")[1:]:
        raise UserError(f"{key}: {name} is in a program, which importing would run; name a class of a module")
    if not {*KNOWN, *_TRUSTED} & {*_prefixes(name)}:
        raise UserError(
            f"{key}: {name} is code of others, named by a folder and not by you; if you trust it, add "
            f"trust={name.rpartition('.')[0] or name}"
        )


def _targets(node: Any) -> Iterator[str]:
    """The values of ``_target_`` in a node, also in its lists."""
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _targets(value)
    if isinstance(node, dict) and "_target_" in node:
        yield str(node["_target_"])


def _prefixes(name: str) -> Iterator[str]:
    """``a``, ``a.b``, ``a.b.C``."""
    parts = name.split(".")
    return (".".join(parts[: n + 1]) for n in range(len(parts)))
