"""Medical images into shards: ``python -m dira_scale.shard recipe=NAME out=FOLDER``, and what can be done with them."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.config.compose import run_verb
from dira_scale.errors import nearest


def shard(config: DictConfig) -> int:
    """Convert."""
    from dira_scale.ingest.convert import convert

    convert(_plain(config.recipe), config.out, _workers(config), config.key_file, config.slice)
    return 0


def plan(config: DictConfig) -> int:
    """What a conversion would find, make and take: inputs, oddities, size and time."""
    from dira_scale.ingest.survey import survey_and_tell

    survey_and_tell(_plain(config.recipe), _workers(config), config.key_file, config.sample)
    return 0


def repair(config: DictConfig) -> int:
    """Write the broken shards of a dataset again, from its source."""
    from dira_scale.ingest.repair import repair

    repair(_plain(config.recipe), config.path, _workers(config), config.key_file)
    return 0


def verify(config: DictConfig) -> int:
    """Every checksum, every image: is a dataset what it was when it was made?"""
    from dira_scale.curation.verify import tell, verify

    return tell(config.path, verify(config.path, _workers(config)))


def subset(config: DictConfig) -> int:
    """A part of a dataset: a fraction of its patients, the samples of some kind, one of k folds; copies no shard."""
    from dira_scale.curation.subset import Part, subset

    where: Any = OmegaConf.to_container(config.where) if OmegaConf.is_config(config.where) else config.where
    part = Part(config.fraction, config.seed, tuple(_list(config.splits)), where or {}, config.folds, config.fold)
    subset(config.path, config.out, part)
    return 0


def merge(config: DictConfig) -> int:
    """Several datasets as one; copies no shard."""
    from dira_scale.curation.merge import merge

    merge(_list(config.paths), config.out, config.name)
    return 0


def stats(config: DictConfig) -> int:
    """What is in a dataset: a table, and one HTML page with a contact sheet, sizes, intensities, labels."""
    from dira_scale.curation.stats import Stats
    from dira_scale.curation.stats_page import print_table, render_dataset
    from dira_scale.data.manifest import ShardedDataset
    from dira_scale.places.atomic import write_atomic

    found = Stats(ShardedDataset.open(config.path))
    beside = Path(config.path) if "://" not in config.path else Path(config.path.rstrip("/").rpartition("/")[2])
    page = Path(config.page) if config.page else beside.with_name(f"{beside.name}.stats.html")
    print_table(found)
    write_atomic(page, render_dataset(found))
    print(f"page: {page.resolve()}")
    return 0


def convert(config: DictConfig) -> int:
    """A dataset to FFCV's form."""
    from dira_scale.curation.beton import to_beton

    print(", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in to_beton(config.path).items()))
    return 0


def audit(config: DictConfig) -> int:
    """Identifying values of the source that left it; patients and pictures that are in two splits or datasets."""
    from dira_scale.curation.audit import audit

    named = {name: _list(config[name]) for name in ("tables", "against")}
    return audit(config.path, config.source, **named, near_duplicates=config.near_duplicates, workers=_workers(config))


VERBS: dict[str, Callable[[DictConfig], int]] = {
    "plan": plan,
    "repair": repair,
    "verify": verify,
    "subset": subset,
    "merge": merge,
    "convert": convert,
    "audit": audit,
    "stats": stats,
}
HELP = "also: python -m dira_scale.shard VERB KEY=VALUE ... with these (VERB --help lists a verb's keys)"


def _plain(node: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _list(value: Any) -> list[Any]:
    """A list of one may be typed without its brackets."""
    return list(value) if OmegaConf.is_list(value) else [value]


def _workers(config: DictConfig) -> int:
    return config.workers or len(os.sched_getaffinity(0))


def main(argv: list[str] | None = None) -> int:
    """The verb; its first word may name another one of ``VERBS``."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and words[0] in VERBS:
            return run_verb(f"shard_{words[0]}", VERBS[words[0]], words[1:])
        if words and words[0].isalpha():
            known = nearest(words[0], VERBS)
            print(f"shard: no verb '{words[0]}'{known or '.'} There are: {', '.join(VERBS)}", file=sys.stderr)
            return 2
        if words in (["-h"], ["--help"]):
            lines = (f"  {name:<8} {(function.__doc__ or '').splitlines()[0]}" for name, function in VERBS.items())
            print("\n".join([HELP, *lines]) + "\n")
        return run_verb("shard", shard, words)
    except KeyboardInterrupt:
        print("\ninterrupted; what is finished is kept: run the same command again to go on")
        return 75


if __name__ == "__main__":
    raise SystemExit(main())
