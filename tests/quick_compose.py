"""Command lines of the tests share what Hydra composes of the same groups, which takes half a second each time.

Of the many configurations that tests compose a few differ in their groups, the others in values only. The tests of
composing itself (tests/config) compose as users do.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from dira_scale.config import compose

HYDRA = compose._hydra
NO_GROUPS = ("run", "out", "seed", "steps")  # keys without a dot that tests often set
_bases: dict[object, bytes] = {}  # no test changes a file of configs/


def quick(command: str, words: Sequence[str], config_dirs: Sequence[Path]) -> DictConfig:
    """As ``compose._hydra``: the base of those ``words`` that may choose groups, in which the others are set."""
    values = [word for word in words if _is_value(word)]
    choices = tuple(word for word in words if not _is_value(word))
    if config_dirs or any("={" in word for word in choices):  # a mapping sets what values set, too
        return HYDRA(command, words, config_dirs)
    try:
        if (command, choices) not in _bases:
            _bases[command, choices] = pickle.dumps(HYDRA(command, choices, config_dirs))
        overrides = OverridesParser.create().parse_overrides(values)
        assert not any(override.is_sweep_override() for override in overrides)
        config: DictConfig = pickle.loads(_bases[command, choices])
        ConfigLoaderImpl._apply_overrides_to_config(overrides, config)
    except Exception:  # Hydra says what is wrong, with all the words
        return HYDRA(command, words, config_dirs)
    return config


def _is_value(word: str) -> bool:
    key, _, value = word.partition("=")
    plain = "." in key and not key.startswith("hydra.")
    return (plain or key in NO_GROUPS) and not {"@", "/"} & {*key} and not value.startswith("{")
