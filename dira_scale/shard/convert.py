"""One complete conversion, or its listing: what ``python -m dira_scale.shard`` and ``shard list`` do."""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from dira_scale.archive.claim import ShardSlice, claimed, held, remove_leftovers, unfinished, write_dataset
from dira_scale.archive.decoding_time import gpu_codecs_line
from dira_scale.archive.deidentify import Hasher
from dira_scale.archive.finish import finish
from dira_scale.archive.first_look import check_first
from dira_scale.archive.listed import Parts, is_listed, list_part
from dira_scale.archive.outcome import print_outcome, sample_counts
from dira_scale.archive.output import check_output, check_unchanged, completed, finished
from dira_scale.archive.plan import MadePlan, ShardPlan, planned_from
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.slices import with_modality
from dira_scale.archive.sources.base import Source
from dira_scale.archive.stored_plan import store_plan, stored_plan
from dira_scale.archive.writer import sharding
from dira_scale.base.errors import UserError, counted
from dira_scale.base.machine.console import Console
from dira_scale.base.machine.hardware import gpus
from dira_scale.base.storage.store import locate
from dira_scale.base.storage.walk import LinkResolver
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
        identity = recipe.identity(hasher)
        if dataset := finished(folder, identity):
            remove_leftovers(folder)
            console.print(f"{folder} is complete: {sample_counts(dataset.info)}")
            console.print("whether its source has changed since: `shard list` with the same keys")
            return
        stored = stored_plan(folder, recipe, identity, hasher)
        source = recipe.make_source() if stored is None else None
        check_output(folder, recipe.source.get("images"))  # before an hour of listing
        if source is not None:
            if part.total > 1 and is_listed(folder):
                raise UserError(f"out={out}: its parts are listed, but not joined: run `shard list` without slice=…")
            console.print(f"{recipe.name}: listing the images; names are hashed with the key from {key_from}")
            plan: ShardPlan = _planned(folder, source, recipe, hasher, workers)
            recipe = with_modality(replace(recipe, shard_size=plan.shard_size), plan)
        else:
            plan = cast(ShardPlan, stored)
        started = time.monotonic()
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


def list_files(
    config: Mapping[str, Any], out: str | Path, workers: int, key_file: str | None = None, share: str | None = None
) -> None:
    """Inspect the files of a slice of the recipe ``config``; without a ``share`` join what all have found into a plan,
    from which the slices of a conversion to ``out`` read their shards. Of a finished dataset, tell whether the source
    is still the one that it was made from.

    Raises UserError as :func:`convert`, if a slice is missing, or if a dataset's source has changed.
    """
    console = Console(soft_wrap=True, highlight=False)
    part, folder = ShardSlice.parse(share), locate(out, "out")
    try:
        recipe = Recipe.from_config(completed(config, folder))
        hasher, key_from = recipe.hasher(key_file)
        dataset = finished(folder, recipe.identity(hasher))
        check_output(folder, recipe.source.get("images"))
        if part.total > 1:
            if not (divided := recipe.inspector()):
                console.print("this source is listed by one task: `shard list` without slice=…")
                return
            if part.number == 1:
                recipe.make_source()  # an error in a table is known before hours of listing
            with held(folder, part) as scratch:
                count = list_part(folder, recipe.listing, *divided, part, workers, scratch)
            found = "was listed before" if count is None else f"is listed: {counted(count, 'file')}"
            console.print(f"slice {part} {found}; when all are, run the same command without slice=…")
            return
        if not dataset and stored_plan(folder, recipe, recipe.identity(hasher), hasher):
            console.print(f"{folder}: the plan is stored already")
            return
        console.print(f"{recipe.name}: listing the images; names are hashed with the key from {key_from}")
        source = recipe.make_source()
        plan = _planned(folder, source, recipe, hasher, workers)
        if dataset:
            check_unchanged(dataset, plan)
            remove_leftovers(folder)
            console.print(f"{folder}: its source has not changed")
            return
        recipe = with_modality(replace(recipe, shard_size=plan.shard_size), plan)
        identity = recipe.identity(hasher)
        with claimed(folder, identity, plan, ShardSlice()) as scratch:
            store_plan(folder, plan, recipe, identity, getattr(source, "links", LinkResolver(folder)), scratch)
    except OSError as error:
        raise UserError(f"listing for {folder} failed ({error}): fix this, then run the same command again") from error
    shards = counted(len(plan.shards), "shard")
    console.print(
        f"{folder}: the plan of {counted(len(plan), 'input')} in {shards} is stored; now `shard`, with slices"
    )


def _planned(folder: Path, source: Source, recipe: Recipe, hasher: Hasher, workers: int) -> MadePlan:
    divided = recipe.inspector()
    parts = Parts(folder, recipe.listing, divided[0]) if divided and is_listed(folder) else None
    return planned_from(source, recipe, hasher, workers, parts)
