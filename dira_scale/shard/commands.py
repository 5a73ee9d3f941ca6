"""`shard` and its subcommands on archives. Imports are inside the functions, to keep quick commands quick."""

import os
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.storage.store import locate


def convert_archive(config: DictConfig) -> int:
    """Convert an archive."""
    from dira_scale.shard.convert import convert

    convert(_plain(config.recipe), config.out, _workers(config), config.key_file, config.slice)
    return 0


def check(config: DictConfig) -> None:
    """Raises UserError for what `shard` refuses before it reads anything."""
    from dira_scale.archive.naming import completed
    from dira_scale.archive.output import Share
    from dira_scale.archive.recipe import Recipe

    Share.parse(config.slice)
    Recipe.from_config(completed(_plain(config.recipe), locate(config.out, "out"))).check()


def plan(config: DictConfig) -> int:
    """Report what a conversion would find and need: inputs, oddities, size and time."""
    from dira_scale.shard.survey import survey_and_print

    survey_and_print(_plain(config.recipe), _workers(config), config.key_file, config.sample)
    return 0


def repair(config: DictConfig) -> int:
    """Rewrite the damaged shards of a dataset from its source."""
    from dira_scale.shard.repair import repair

    repair(_plain(config.recipe), config.path, _workers(config), config.key_file)
    return 0


def _plain(node: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _workers(config: DictConfig) -> int:
    return config.workers or len(os.sched_getaffinity(0))
