"""`shard` and its subcommands. Imports are inside the functions, to keep quick commands quick."""

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.errors import UserError
from dira_scale.storage.store import is_local, locate


def convert_archive(config: DictConfig) -> int:
    """Convert an archive."""
    from dira_scale.shard.convert import convert

    convert(_plain(config.recipe), config.out, _workers(config), config.key_file, config.slice)
    return 0


def check_paths(config: DictConfig) -> None:
    """Raises UserError for images and tables that are not there; which of them are folders the source says."""
    for name in ("images", "labels", "boxes"):
        value = config.recipe.get(name)
        if isinstance(value, str) and is_local(path := locate(value, f"recipe.{name}")) and not path.exists():
            kind = "folder" if name == "images" else "file"
            raise UserError(f"recipe.{name}={value}: no such {kind}")


def check(config: DictConfig) -> None:
    """Raises UserError for what `shard` refuses before it reads anything."""
    from dira_scale.archive.claim import ShardSlice
    from dira_scale.archive.output import completed
    from dira_scale.archive.recipe import Recipe

    ShardSlice.parse(config.slice)
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


def verify(config: DictConfig) -> int:
    """Check every checksum and image of a dataset."""
    from dira_scale.shard.curate.verify import print_damages, verify

    return print_damages(config.path, verify(config.path, _workers(config)))


def subset(config: DictConfig) -> int:
    """Take a part of a dataset: a fraction of its patients, some kinds of samples, one of k folds; copies no shard."""
    from dira_scale.shard.curate.subset import SubsetPart, subset

    where: Any = OmegaConf.to_container(config.where) if OmegaConf.is_config(config.where) else config.where
    part = SubsetPart(config.fraction, config.seed, tuple(_list(config.splits)), where or {}, config.folds, config.fold)
    subset(config.path, config.out, part)
    return 0


def merge(config: DictConfig) -> int:
    """Join several datasets; copies no shard."""
    from dira_scale.shard.curate.merge import merge

    merge(_list(config.paths), config.out, config.name)
    return 0


def stats(config: DictConfig) -> int:
    """Describe a dataset: a table, and an HTML page with a contact sheet, sizes, intensities, labels."""
    from dira_scale.data.manifest import ShardedDataset
    from dira_scale.shard.curate.stats import Stats
    from dira_scale.shard.curate.stats_page import print_table, render_dataset
    from dira_scale.storage.atomic import as_user_error, write_atomic
    from dira_scale.storage.owned import own_file

    stats = Stats(ShardedDataset.open(config.path))
    beside = Path(config.path) if "://" not in config.path else Path(config.path.rstrip("/").rpartition("/")[2])
    page = Path(config.page) if config.page else beside.with_name(f"{beside.name}.stats.html")
    own_file(page, "page")
    html = render_dataset(stats)
    with as_user_error(page, "page"):
        write_atomic(page, html)
    print_table(stats)
    print(f"page: {page.resolve()}")
    return 0


def convert(config: DictConfig) -> int:
    """Write a dataset in FFCV's format, beside its tars."""
    from dira_scale.shard.curate.beton import to_beton

    print(", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in to_beton(config.path).items()))
    return 0


def audit(config: DictConfig) -> int:
    """Search for identifying values of the source, and for patients and images in two splits or datasets."""
    from dira_scale.shard.curate.audit.make import audit

    named = {name: _list(config[name]) for name in ("tables", "against")}
    return audit(config.path, config.source, **named, near_duplicates=config.near_duplicates, workers=_workers(config))


def _plain(node: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _workers(config: DictConfig) -> int:
    return config.workers or len(os.sched_getaffinity(0))


def _list(value: Any) -> list[Any]:
    """Accept a list of one without its brackets."""
    return list(value) if OmegaConf.is_list(value) else [value]
