"""``shard convert to=webdataset``: a dataset's shards in another codec, bit depth or size, without its source.

Resumable, and the same bytes for any number of workers, by the means of ``shard`` itself (``archive``). Shards keep
their names and samples; all that is not pixels is carried over.
"""

import shlex
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from dira_scale import __version__
from dira_scale.archive.claim import remove_leftovers, write_dataset
from dira_scale.archive.finish import discard, joined, publish_dataset
from dira_scale.archive.outcome import sample_counts
from dira_scale.archive.output import check_output, finished
from dira_scale.archive.recipe import identity_hash
from dira_scale.archive.writer import Conversion
from dira_scale.data.manifest import QUARANTINE_FILE, DatasetInfo, ShardedDataset
from dira_scale.errors import UserError, counted
from dira_scale.machine.console import Console
from dira_scale.shard.curate.recode_plan import RecodePlan, check, described, identity, planned
from dira_scale.shard.curate.recode_sample import Form, recoded
from dira_scale.storage.store import locate, open_file

SHOWN = 5  # damaged samples that are printed individually


class Damaged(NamedTuple):
    """A sample of the origin that could not be converted; ``shard`` is the new dataset's."""

    shard: str
    key: str
    reason: str


class Recoded(NamedTuple):
    """The result of a conversion."""

    info: DatasetInfo
    damaged: list[Damaged]


def recode(path: str | Path, out: str | Path, form: Form, workers: int) -> None:
    """Write the dataset at ``path`` to ``out`` in another form; resumes an interrupted call.

    A sample whose bytes are damaged goes to quarantine, and is counted and named in what is printed.

    Raises UserError if the dataset cannot have that form, ``out`` is unsuitable, no sample is readable, or the disk or
    store fails.
    """
    console = Console(soft_wrap=True, highlight=False)
    folder, origin = locate(out, "out"), ShardedDataset.open(path)
    check(origin, form, folder)
    recipe = identity(origin, form)
    started = time.monotonic()
    try:
        plan = RecodePlan(origin)
        made: ShardedDataset | Recoded | None = finished(folder, recipe)
        if made is None:
            check_output(folder, None)
            console.print(f"{origin.root}: {described(origin)}; {planned(origin, form)}")
            work = Conversion(partial(recoded, form=form), doing="converting")
            join = partial(_finish, folder, plan, origin, recipe, form)
            made = write_dataset(folder, plan, recipe, work, workers, join)
            assert made is not None
    except OSError as error:
        raise UserError(
            f"converting to {folder} failed ({error}); finished shards are kept: fix this, then run the same command "
            "again"
        ) from error
    if isinstance(made, Recoded):
        return _print_outcome(console, folder, origin, made, time.monotonic() - started)
    if made.info.plan_hash != plan.hash:
        raise UserError(f"path={path} has changed since out={out} was made (its labels, boxes or splits): choose "
                        f"another out, or delete {out} to remake it")  # fmt: skip
    remove_leftovers(folder)
    console.print(f"{folder} is complete: {sample_counts(made.info)}")


def _finish(
    out: Path, plan: RecodePlan, origin: ShardedDataset, recipe: dict[str, Any], form: Form, scratch: Path
) -> Recoded:
    """Join the shards' states and the origin's quarantine into the tables. Raises UserError if no sample is left."""
    counts, damaged = Counter(dict.fromkeys(origin.info.counts, 0)), list[Damaged]()
    sizes, checksums = {}, {}
    with open_file(origin.root / QUARANTINE_FILE) as file:
        rejected = pq.read_table(file).to_pylist()
    for shard, state in joined(out, plan, recipe, scratch, rejected):
        sizes[shard], checksums[shard] = state["size"], state["xxh3"]
        counts.update(row["split"] for row in state["rows"])
        damaged += [Damaged(shard, entry["source"], entry["reason"]) for entry in state["rejected"]]
    if not counts.total():
        discard(out, plan, scratch)
        raise UserError(f"none of the {len(damaged)} images of path={origin.root} can be converted, the first because: "
                        f"{damaged[0].reason}")  # fmt: skip
    info = replace(
        origin.info,
        codec=form.codec or origin.info.codec,
        counts=dict(counts),
        quarantined=origin.info.quarantined + len(damaged),
        shards=sizes,
        checksums=checksums,
        recipe=recipe,
        recipe_hash=identity_hash(recipe),
        plan_hash=plan.hash,
        betons={},
        tool_version=__version__,
    )
    publish_dataset(out, scratch, info)
    return Recoded(info, damaged)


def _print_outcome(console: Console, out: Path, origin: ShardedDataset, outcome: Recoded, seconds: float) -> None:
    info, damaged = outcome
    size, before = (sum(dataset.shards.values()) / 1e6 for dataset in (info, origin.info))
    shards = counted(len(info.shards), "shard")
    console.print(f"{out}: {sample_counts(info)}; {size:.1f} MB in {shards}, {before:.1f} MB before; {seconds:.0f} s")
    if damaged:
        console.print(f"warning: {counted(len(damaged), 'image')} of {origin.root} cannot be converted and went to "
                      "quarantine:", style="yellow")  # fmt: skip
        for shard, key, reason in damaged[:SHOWN]:
            console.print(f"  {shard}, sample {key}: {reason}")
        if len(damaged) > SHOWN:
            console.print(f"  … and {len(damaged) - SHOWN} more")
        console.print(
            f"to include them, repair {origin.root} (shard repair, or an intact copy), delete {out}, convert again"
        )
    console.print(f"look: python -m dira_scale.shard stats {shlex.quote(f'path={out}')}")
