"""Options that are no files of their own, of which Hydra learns here.

A file ``configs/COMMAND/GROUP.yaml`` holds small options of a group, a node each. A preset's file holds, below
``_of_``, what the preset has for one method, or one task: the option NAME_PRESET of the group ``_preset_of``, which a
command chooses by its method, or task, and preset. It may name others in its defaults, such as one of several tasks,
whose name begins with an underscore. A file ``_preset_of/NAME_PRESET.yaml`` of your own folder is such an option, too.
"""

from collections.abc import Iterable
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from dira_scale.base.config.files import small_options

GROUP, PARTS = "_preset_of", "_of_"


def store_small_options(command: str) -> None:
    for group, options in small_options(command).items():
        for name, option in options.items():
            ConfigStore.instance().store(name, option, group)


def store_presets(folders: Iterable[Path]) -> None:
    """The parts of all presets in these folders of groups: one may name another's. Of two presets with one name Hydra
    reads the first, whose parts are stored last."""
    for file in (file for folder in reversed([*folders]) for file in (folder / "preset").glob("*.yaml")):
        preset = OmegaConf.load(file)
        parts = preset.get(PARTS, {}) if isinstance(preset, DictConfig) else {}
        for name, part in parts.items():
            ConfigStore.instance().store(f"{name}_{file.stem}", part or {}, GROUP, "_global_")
