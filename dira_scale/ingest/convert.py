"""One conversion from beginning to end: what ``python -m dira_scale.shard`` does."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from dira_scale.data.manifest import DatasetInfo
from dira_scale.errors import UserError
from dira_scale.ingest.deidentify import Hasher, load_key
from dira_scale.ingest.destination import check_unchanged, claimed, finished
from dira_scale.ingest.finish import Outcome, finish
from dira_scale.ingest.plan import plan
from dira_scale.ingest.recipe import Recipe
from dira_scale.ingest.writer import write_shards


def convert(config: Mapping[str, Any], out: Path, workers: int, key_file: str | None = None) -> None:
    """Shard the images that the recipe ``config`` names into ``out``; go on where an earlier call stopped.

    Raises UserError when the recipe, its source or what is in ``out`` does not fit.
    """
    if not isinstance(workers, int) or workers < 1:
        raise UserError(f"workers={workers}: must be a whole number of at least 1, or null for all cores")
    console = Console(soft_wrap=True, highlight=False)
    recipe = Recipe.from_config(config)
    key, key_from = load_key(recipe.secret, key_file)
    hasher = Hasher(key)
    identity = recipe.identity(hasher)
    made = finished(out, identity)
    source = recipe.make_source()
    console.print(f"{recipe.name}: listing the images; names are hashed with the key of {key_from}")
    try:
        planned = plan(source.records(workers), recipe, hasher, source.label_names)
    except OSError as error:
        raise UserError(f"listing the images failed ({error}): mend it and run the same command again") from error
    if made:
        check_unchanged(made, planned)
        console.print(f"{out} is complete: {_counts(made.info)}")
        return
    started = time.monotonic()
    with claimed(out, identity, planned):
        write_shards(out, planned, recipe, workers)
        outcome = finish(out, planned, recipe, identity)
    _tell(console, out, outcome, time.monotonic() - started)


def _tell(console: Console, out: Path, outcome: Outcome, seconds: float) -> None:
    size = sum(outcome.info.shards.values())
    console.print(
        f"{out}: {_counts(outcome.info)}; {size / 1e6:.1f} MB in {len(outcome.info.shards)} shards; {seconds:.0f} s"
    )
    if outcome.reasons:
        console.print(f"quarantined: {outcome.info.quarantined} (by name in {outcome.rejected_names})")
        for reason, count in outcome.reasons.most_common(5):
            console.print(f"  {count} x {reason}")
    run = f"run=out/runs/{outcome.info.name}"
    console.print(f"next: accelerate launch -m dira_scale.pretrain experiment=small data.shards={out} {run}")


def _counts(info: DatasetInfo) -> str:
    return ", ".join(f"{split} {count}" for split, count in info.counts.items()) + " samples"
