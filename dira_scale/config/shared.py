"""Compositions that many command lines have in common: Hydra composes the groups once, and puts in each one's values.

Of a sweep's hundreds of configurations a few differ in their choices of groups, the others in values only.
"""

import pickle
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from hydra._internal.config_loader_impl import ConfigLoaderImpl  # private: what Hydra itself applies values with
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

_bases: dict[object, bytes] | None = None  # None: every command line is composed on its own


@contextmanager
def shared_bases() -> Iterator[None]:
    """Meanwhile, no file of a configuration changes: what was composed from the same choices is used again."""
    global _bases
    before, _bases = _bases, {} if _bases is None else _bases
    try:
        yield
    finally:
        _bases = before


def composed(
    key: object,
    words: Sequence[str],
    compose: Callable[[Sequence[str]], DictConfig],
    groups: Callable[[], Collection[str]],
) -> DictConfig:
    """``compose(words)``, from the base of those ``words`` that may choose groups where that has been composed.

    ``key``: what else the composition depends on. ``groups``: names of all groups outside others.
    """
    if _bases is None or any("={" in word and not _dotted(word) for word in words):  # sets what values set, too
        return compose(words)
    known = groups()
    values = [word for word in words if _is_value(word, known)]
    choices = tuple(word for word in words if not _is_value(word, known))
    try:
        if (key, choices) not in _bases:
            _bases[key, choices] = pickle.dumps(compose(choices))
        parsed = OverridesParser.create().parse_overrides(values)
        if any(override.is_sweep_override() for override in parsed):
            return compose(words)
        config: DictConfig = pickle.loads(_bases[key, choices])
        ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
    except Exception:  # Hydra says what is wrong, with all the words; or what is private has changed
        return compose(words)
    return config


def _is_value(word: str, groups: Collection[str]) -> bool:
    """Whether a word sets a key, and so chooses no group. Mappings may set the same key twice."""
    key, equals, value = word.partition("=")
    plain = equals and key.isidentifier() and key not in groups
    return bool(plain or _dotted(word)) and "@" not in key and "/" not in key and not value.startswith("{")


def _dotted(word: str) -> bool:
    return "." in word.partition("=")[0] and not word.startswith("hydra.")
