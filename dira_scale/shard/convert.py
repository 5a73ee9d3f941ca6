"""One complete conversion: what ``python -m dira_scale.shard`` does."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dira_scale.archive.claim import ShardSlice, remove_leftovers, unfinished, write_dataset
from dira_scale.archive.decoding_time import gpu_codecs_line
from dira_scale.archive.finish import ConversionOutcome, finish
from dira_scale.archive.first_look import check_first
from dira_scale.archive.outcome import print_outcome, sample_counts
from dira_scale.archive.output import check_output, check_unchanged, completed, finished
from dira_scale.archive.plan import planned_from
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.slices import with_modality
from dira_scale.archive.writer import sharding
from dira_scale.base.errors import UserError, counted
from dira_scale.base.machine.console import Console
from dira_scale.base.machine.hardware import gpus
from dira_scale.base.storage.store import locate
from dira_scale.dataset.manifest import ShardedDataset


def convert(
    config: Mapping[str, Any], out: str | Path, workers: int, key_file: str | None = None, share: str | None = None
) -> None:
    """Shard the images of the recipe ``config`` into ``out``; resumes an interrupted call.

    With a ``share``, such as "3/16", only that slice of the shards is written; a call without it writes what is still
    missing and joins everything into the dataset.

    Raises UserError if the recipe, its source or the content of ``out`` is unsuitable, or the disk or store fails.
    """
    console = Console(soft_wrap=True, highlight=False)
    part, folder = ShardSlice.parse(share), locate(out, "out")
    try:
        config = completed(config, folder)
        recipe = Recipe.from_config(config)
        hasher, key_from = recipe.hasher(key_file)
        source = recipe.make_source()
        result: ShardedDataset | ConversionOutcome | None = finished(folder, recipe.identity(hasher))
        if result is None:  # check before an hour of listing
            check_output(folder, recipe.source.get("images"))
        console.print(f"{recipe.name}: listing the images; names are hashed with the key from {key_from}")
        plan = planned_from(source, recipe, hasher, workers)
        recipe = with_modality(recipe, plan)
        started = time.monotonic()
        if result is None:
            check_first(plan, recipe, folder)
            identity = recipe.identity(hasher)
            join = partial(finish, folder, plan, recipe, identity)
            result = write_dataset(folder, plan, identity, sharding(recipe), workers, join, part)
        if result is None:  # other slices may be missing
            own, missing = part.shards(plan), unfinished(folder, plan.shards)
            console.print(f"{folder}: slice {part} is done, {len(own)} of {len(plan.shards)} shards")
            if missing:
                console.print(f"still to do by other slices: {counted(len(missing), 'shard')}")
            when = "when all slices are done" if missing else "all shards are written"
            console.print(f"{when}: run the same command without slice=… to join them into the dataset")
            return
        if isinstance(result, ShardedDataset):
            check_unchanged(result, plan)
            remove_leftovers(folder)
            console.print(f"{folder} is complete: {sample_counts(result.info)}")
            return
    except OSError as error:
        raise UserError(
            f"sharding to {folder} failed ({error}); finished shards are kept: fix this, then run the same command "
            "again"
        ) from error
    if gpus()[0] and (line := gpu_codecs_line(ShardedDataset.open(folder))):
        console.print(line)
    print_outcome(console, folder, result, time.monotonic() - started)
