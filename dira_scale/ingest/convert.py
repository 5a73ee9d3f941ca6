"""One complete conversion: what ``python -m dira_scale.shard`` does."""

import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from dira_scale.data.manifest import DatasetInfo, ShardedDataset
from dira_scale.errors import UserError
from dira_scale.ingest.claim import claimed, remove_leftovers
from dira_scale.ingest.deidentify import Hasher, load_key
from dira_scale.ingest.finish import Outcome, finish
from dira_scale.ingest.naming import completed
from dira_scale.ingest.output import Slice, check_place, check_unchanged, finished, made_of, publish_shard, unfinished
from dira_scale.ingest.plan import ShardPlan, plan_shards
from dira_scale.ingest.recipe import Recipe
from dira_scale.ingest.sample import FILLED
from dira_scale.ingest.slices import EMPTY
from dira_scale.ingest.writer import sharding, write_shards
from dira_scale.places.store import locate

PHANTOMS = "dira_scale.ingest.sources.phantom"  # the sources with an experiment of their own
REFUSED = 0.1  # share of refused images from which a conversion ends with a warning


def convert(
    config: Mapping[str, Any], out: str | Path, workers: int, key_file: str | None = None, share: str | None = None
) -> None:
    """Shard the images of the recipe ``config`` into ``out``; resumes an interrupted call.

    With a ``share``, such as "3/16", only that slice of the shards is written; a call without it writes what is still
    missing and joins everything into the dataset.

    Raises UserError if the recipe, its source or the content of ``out`` is unsuitable, or the disk or store fails.
    """
    console = Console(soft_wrap=True, highlight=False)
    part, place = Slice.parse(share), locate(out, "out")
    try:
        recipe = Recipe.from_config(completed(config, place))
        hasher, key_from = hasher_of(recipe, key_file)
        identity = recipe.identity(hasher)
        made: ShardedDataset | Outcome | None = finished(place, identity)
        if made is None:  # check before an hour of listing
            check_place(place, recipe.source.get("images"))
        console.print(f"{recipe.name}: listing the images; names are hashed with the key from {key_from}")
        planned = planned_from(recipe, hasher, workers)
        started = time.monotonic()
        made = made or _make(place, planned, recipe, identity, part, workers)
        if made is None:
            return _print_slice(console, place, planned, part)
        if isinstance(made, ShardedDataset):
            check_unchanged(made, planned)
            remove_leftovers(place)
            console.print(f"{place} is complete: {sample_counts(made.info)}")
            return
    except OSError as error:
        raise UserError(
            f"sharding to {place} failed ({error}); finished shards are kept: fix this, then run the same command again"
        ) from error
    _print_outcome(console, place, made, time.monotonic() - started)


def _make(
    out: Path, planned: ShardPlan, recipe: Recipe, identity: dict[str, Any], part: Slice, workers: int
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


def hasher_of(recipe: Recipe, key_file: str | None) -> tuple[Hasher, str]:
    """The recipe's hasher, and where its key is from."""
    key, key_from = load_key(recipe.secret, key_file)
    return Hasher(key, recipe.archive), key_from


def planned_from(recipe: Recipe, hasher: Hasher, workers: int) -> ShardPlan:
    """The plan for all images that the recipe's source lists. Raises UserError."""
    source = recipe.make_source()
    try:
        return plan_shards(source.records(workers), recipe, hasher, source.label_names)
    except OSError as error:
        raise UserError(f"listing the images failed ({error}): fix this, then run the same command again") from error


def _print_slice(console: Console, out: Path, planned: ShardPlan, part: Slice) -> None:
    mine, missing = part.shards(planned), unfinished(out, planned.shards)
    console.print(f"{out}: slice {part} is done, {len(mine)} of {len(planned.shards)} shards")
    if missing:
        console.print(f"still to do by other slices: {counted(len(missing), 'shard')}")
    when = "when all slices are done" if missing else "all shards are written"
    console.print(f"{when}: run the same command without slice=… to join them into the dataset")


def _print_outcome(console: Console, out: Path, outcome: Outcome, seconds: float) -> None:
    size = sum(outcome.info.shards.values())
    console.print(
        f"{out}: {sample_counts(outcome.info)}; {size / 1e6:.1f} MB in {counted(len(outcome.info.shards), 'shard')}; "
        f"{seconds:.0f} s"
    )
    if outcome.info.split_remark:
        console.print(f"splits: as in {outcome.info.split_remark}")
    if outcome.reasons:
        console.print(f"quarantined: {outcome.info.quarantined} (by name in {outcome.rejected_names})")
        for reason, count in most_common(outcome.reasons):
            console.print(f"  {count} x {reason}")
    for warning in _warnings(outcome):
        console.print(f"warning: {warning}", style="yellow")
    if outcome.filled[0]:
        volumes, slices = outcome.filled
        console.print(f"filled in: {counted(slices, 'slice')} missing in {counted(volumes, 'volume')} "
                      f"(attribute {FILLED})")  # fmt: skip
    if outcome.absent:
        console.print(f"attributes: no sample has {', '.join(outcome.absent)}; neither table nor headers have it")
    console.print(f"look: python -m dira_scale.shard stats {shlex.quote(f'path={out}')}")
    if outcome.info.dims == 3:
        console.print("next: pretraining reads 2D images: recipe.slices=axial and another out store these volumes' "
                      "slices for it (docs/how-to/volumes.md)")  # fmt: skip
    else:
        phantoms = outcome.info.recipe["_target_"].startswith(PHANTOMS)
        experiment = f"experiment={'phantom' if phantoms else 'small'}"
        words = shlex.join([experiment, f"data.shards={out}", f"run=out/runs/{outcome.info.name}"])
        console.print(f"next: python -m dira_scale.pretrain {words}")


def _warnings(outcome: Outcome) -> Iterator[str]:
    """What should be looked at before training: many refused images, an empty split."""
    info = outcome.info
    count = info.quarantined - outcome.reasons[EMPTY]
    refused = count / max(1, count + sum(info.counts.values()))
    if refused > REFUSED:
        yield f"{refused:.0%} of the images were refused: see the reasons above, some name the key that decides"
    if info.patients_in_two_splits:
        yield (f"the lists have {counted(info.patients_in_two_splits, 'patient')} in two splits: figures on val and "
               "test are then partly of patients that were trained on")  # fmt: skip
    for split in ("train", "val"):
        if not info.counts.get(split):
            yield f"no image is in the split '{split}'" + (
                "; set data.val_split=null, or shard with other recipe.splits" if split == "val" else ""
            )


def counted(count: int, noun: str) -> str:
    """``1 shard``, ``2,000 shards``, ``2 series``."""
    return f"{count:,} {noun}{'' if count == 1 or noun.endswith('s') else 's'}"


def most_common(reasons: Counter[str]) -> list[tuple[str, int]]:
    """The five most frequent reasons, and the count of all others."""
    most = reasons.most_common(5)
    rest = reasons.total() - sum(count for _, count in most)
    return [*most, *([("other reasons", rest)] if rest else [])]


def sample_counts(info: DatasetInfo) -> str:
    """``train 80, val 10, test 10 samples``."""
    return ", ".join(f"{split} {count}" for split, count in info.counts.items()) + " samples"
