"""`shard` and its subcommands. Imports are inside the functions, to keep quick commands quick."""

import os
from pathlib import Path
from typing import Any

from etils.epy import lazy_imports
from omegaconf import DictConfig, OmegaConf

from dira_scale.base.errors import UserError
from dira_scale.base.storage.store import is_local, locate

with lazy_imports():
    from dira_scale.archive import claim, output
    from dira_scale.archive import recipe as recipes
    from dira_scale.base.storage import atomic, owned
    from dira_scale.dataset import manifest
    from dira_scale.shard import convert as conversion
    from dira_scale.shard import repair as repairing
    from dira_scale.shard import survey
    from dira_scale.shard.curate import beton, stats_page
    from dira_scale.shard.curate import merge as merging
    from dira_scale.shard.curate import stats as statistics
    from dira_scale.shard.curate import subset as subsets
    from dira_scale.shard.curate import verify as verification
    from dira_scale.shard.curate.audit import make as auditing
    from dira_scale.shard.curate.balance import make as balancing


def convert_archive(config: DictConfig) -> int:
    """Convert an archive."""
    conversion.convert(_plain(config.recipe), config.out, _workers(config), config.key_file, config.slice)
    return 0


def list_archive(config: DictConfig) -> int:
    """List an archive, by several tasks, and store its plan for the slices of a conversion."""
    conversion.list_files(_plain(config.recipe), config.out, _workers(config), config.key_file, config.slice)
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
    claim.ShardSlice.parse(config.slice)
    recipes.Recipe.from_config(output.completed(_plain(config.recipe), locate(config.out, "out"))).check()


def plan(config: DictConfig) -> int:
    """Report what a conversion would find and need: inputs, oddities, size and time."""
    survey.survey_and_print(_plain(config.recipe), _workers(config), config.key_file, config.sample)
    return 0


def repair(config: DictConfig) -> int:
    """Rewrite the damaged shards of a dataset from its source."""
    repairing.repair(_plain(config.recipe), config.path, _workers(config), config.key_file, config.slice)
    return 0


def verify(config: DictConfig) -> int:
    """Check every checksum and image of a dataset."""
    part = claim.ShardSlice.parse(config.slice)
    return verification.print_damages(config.path, verification.verify(config.path, _workers(config), part), part)


def subset(config: DictConfig) -> int:
    """Take a part of a dataset: a fraction of its patients, some kinds of samples, one of k folds; copies no shard."""
    where: Any = OmegaConf.to_container(config.where) if OmegaConf.is_config(config.where) else config.where
    part = subsets.SubsetPart(
        config.fraction, config.seed, tuple(_list(config.splits)), where or {}, config.folds, config.fold
    )
    subsets.subset(config.path, config.out, part)
    return 0


def merge(config: DictConfig) -> int:
    """Join several datasets; copies no shard."""
    merging.merge(_list(config.paths), config.out, config.name)
    return 0


def stats(config: DictConfig) -> int:
    """Describe a dataset: a table, and an HTML page with a contact sheet, sizes, intensities, labels."""
    stats = statistics.Stats(manifest.ShardedDataset.open(config.path))
    page = Path(config.page) if config.page else output.beside(locate(config.path, "path"), "stats.html")
    owned.own_file(page, "page")
    html = stats_page.render_dataset(stats)
    with atomic.as_user_error(page, "page"):
        atomic.write_atomic(page, html)
    stats_page.print_table(stats)
    print(f"page: {page.resolve()}")
    return 0


def convert(config: DictConfig) -> int:
    """Write a dataset in FFCV's format, beside its tars."""
    print(", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in beton.to_beton(config.path).items()))
    return 0


def audit(config: DictConfig) -> int:
    """Search for identifying values of the source, and for patients and images in two splits or datasets."""
    named = {name: _list(config[name]) for name in ("tables", "against")}
    return auditing.audit(
        config.path, config.source, **named, near_duplicates=config.near_duplicates, workers=_workers(config)
    )


def balance(config: DictConfig) -> int:
    """Compute how often each image is drawn, for rare kinds to come more often; list near-duplicates."""
    balancing.balance(_list(config.path), _list(config.embeddings), Path(config.out), config)
    return 0


def _plain(node: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _workers(config: DictConfig) -> int:
    return config.workers or len(os.sched_getaffinity(0))


def _list(value: Any) -> list[Any]:
    """Accept a list of one without its brackets."""
    return list(value) if OmegaConf.is_list(value) else [value]
