"""Compositions that many tests have in common: Hydra composes the groups once for each choice of them, a quarter of a
second, and puts in each test's values. A stand-in for ``compose._hydra``."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl  # private: what Hydra itself applies values with
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from dira_scale.base.config import compose
from dira_scale.base.config.files import roots

hydra, load = compose._hydra, OmegaConf.load
BASES: dict[object, bytes] = {}  # of all tests of this process, none of which changes a file of configs/
PARSED: dict[str, bytes] = {}  # by the text of a file


def parsed(file: Any) -> Any:
    """What ``OmegaConf.load`` makes of an open file, of which each text is parsed once: a third of a composition."""
    if not hasattr(file, "read"):
        return load(file)
    text = file.read()
    if text not in PARSED:
        file.seek(0)
        PARSED[text] = pickle.dumps(load(file))
    return pickle.loads(PARSED[text])


def composed(command: str, words: Sequence[str], config_dirs: Sequence[Path]) -> DictConfig:
    """What Hydra composes, from the base of those ``words`` that may choose groups."""
    if any("={" in word and not _dotted(word) for word in words):  # sets what values set, too
        return hydra(command, words, config_dirs)
    folders = [folder for folder in roots(command, list(config_dirs)) if folder.is_dir()]
    known = {"hydra", *(path.name for folder in folders for path in folder.iterdir())}
    values = [word for word in words if _is_value(word, known)]
    choices = tuple(word for word in words if not _is_value(word, known))
    key = command, choices, tuple(config_dirs)
    try:
        if key not in BASES:
            BASES[key] = pickle.dumps(hydra(command, choices, config_dirs))
        parsed = OverridesParser.create().parse_overrides(values)
        if any(override.is_sweep_override() for override in parsed):
            return hydra(command, words, config_dirs)
        config: DictConfig = pickle.loads(BASES[key])
        ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
    except Exception:  # Hydra says what is wrong, with all the words
        return hydra(command, words, config_dirs)
    return config


def _is_value(word: str, groups: set[str]) -> bool:
    """Whether a word sets a key, and so chooses no group. Mappings may set the same key twice."""
    key, equals, value = word.partition("=")
    plain = equals and key.isidentifier() and key not in groups
    return bool(plain or _dotted(word)) and "@" not in key and "/" not in key and not value.startswith("{")


def _dotted(word: str) -> bool:
    return "." in word.partition("=")[0] and not word.startswith("hydra.")
