"""One complete conversion: what ``python -m dira_scale.shard`` does."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dira_scale.archive.claim import claimed, remove_leftovers
from dira_scale.archive.finish import Outcome, finish
from dira_scale.archive.naming import completed, with_modality
from dira_scale.archive.outcome import print_outcome, sample_counts
from dira_scale.archive.output import Share, check_output, check_unchanged, finished, made_of, publish_shard, unfinished
from dira_scale.archive.plan import ShardPlan, hasher_of, planned_from
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.writer import sharding, write_shards
from dira_scale.data.manifest import ShardedDataset
from dira_scale.errors import UserError, counted
from dira_scale.machine.console import Console
from dira_scale.storage.store import locate


def convert(
    config: Mapping[str, Any], out: str | Path, workers: int, key_file: str | None = None, share: str | None = None
) -> None:
    """Shard the images of the recipe ``config`` into ``out``; resumes an interrupted call.

    With a ``share``, such as "3/16", only that slice of the shards is written; a call without it writes what is still
    missing and joins everything into the dataset.

    Raises UserError if the recipe, its source or the content of ``out`` is unsuitable, or the disk or store fails.
    """
    console = Console(soft_wrap=True, highlight=False)
    part, folder = Share.parse(share), locate(out, "out")
    try:
        config = completed(config, folder)
        recipe = Recipe.from_config(config)
        hasher, key_from = hasher_of(recipe, key_file)
        made: ShardedDataset | Outcome | None = finished(folder, recipe.identity(hasher))
        if made is None:  # check before an hour of listing
            check_output(folder, recipe.source.get("images"))
        console.print(f"{recipe.name}: listing the images; names are hashed with the key from {key_from}")
        planned = planned_from(recipe, hasher, workers)
        recipe = Recipe.from_config(with_modality(config, planned))
        identity = recipe.identity(hasher)
        started = time.monotonic()
        made = made or _make(folder, planned, recipe, identity, part, workers)
        if made is None:
            return _print_slice(console, folder, planned, part)
        if isinstance(made, ShardedDataset):
            check_unchanged(made, planned)
            remove_leftovers(folder)
            console.print(f"{folder} is complete: {sample_counts(made.info)}")
            return
    except OSError as error:
        raise UserError(
            f"sharding to {folder} failed ({error}); finished shards are kept: fix this, then run the same command "
            "again"
        ) from error
    print_outcome(console, folder, made, time.monotonic() - started)


def _make(
    out: Path, planned: ShardPlan, recipe: Recipe, identity: dict[str, Any], part: Share, workers: int
) -> ShardedDataset | Outcome | None:
    """Write the shards of ``part``; if that is all of them, join them. The dataset, if others finished it first."""
    with claimed(out, identity, planned, part) as scratch:
        if made := finished(out, identity):  # by another process, while we listed
            return made
        mine = part.shards(planned)
        todo = unfinished(out, mine)
        done = sum(len(planned.shards[shard]) for shard in set(mine) - set(todo))
        publish = partial(publish_shard, out, made_of(planned, identity))
        write_shards(todo, planned, sharding(recipe), workers, scratch, publish, done)
        if made := finished(out, identity):  # by another machine: stores have no locks
            return made
        return finish(out, planned, recipe, identity, scratch) if part.of == 1 else None


def _print_slice(console: Console, out: Path, planned: ShardPlan, part: Share) -> None:
    mine, missing = part.shards(planned), unfinished(out, planned.shards)
    console.print(f"{out}: slice {part} is done, {len(mine)} of {len(planned.shards)} shards")
    if missing:
        console.print(f"still to do by other slices: {counted(len(missing), 'shard')}")
    when = "when all slices are done" if missing else "all shards are written"
    console.print(f"{when}: run the same command without slice=… to join them into the dataset")
