"""The output folder: whether it is finished, and from which recipe (``claim.py``: which processes write it).

An unfinished dataset has a folder ``.partial``::

    .partial/
      plan.json            recipe, hash key, hash of the plan
      lock                 held exclusively by a full conversion, or shared by processes that write slices
      train-000000.tar     a shard being written; once complete and on disk, it is renamed into the dataset
      train-000000.json    written after that: the shard's size, checksum, manifest rows and rejected inputs
      3-of-16/             lock and unfinished shards of a process that writes a slice

Object stores have no locks or renames. There ``.partial`` holds only the states of finished shards; locks and
unfinished shards are in the temporary folder, and a shard is uploaded once complete. Two machines that write the same
shards write the same bytes twice; one that is late, after the dataset is joined, uploads nothing.
A dataset with a manifest is finished; a remaining ``.partial`` is removed.
"""

import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from dira_scale.archive.plan import PlannedShards, ShardPlan, input_of
from dira_scale.archive.recipe import identity_hash
from dira_scale.archive.writer import WrittenShard
from dira_scale.data.manifest import INFO_FILE, MANIFEST_FILE, QUARANTINE_FILE, DatasetError, ShardedDataset
from dira_scale.errors import UserError
from dira_scale.storage.atomic import publish, write_json
from dira_scale.storage.owned import REJECTED, own_file
from dira_scale.storage.store import as_os_error, is_local, locate, open_file

PARTIAL = ".partial"
PLAN_FILE, LOCK = "plan.json", "lock"
# What else is in .partial: shards and their states, slices, what `words` has computed.
OURS = re.compile(r"[^/]+-[0-9]{6}\.(tar|json)|[0-9]+-of-[0-9]+|descriptors-[0-9a-f]{16}")


class Share(NamedTuple):
    """The shards that one process writes: every ``of``-th."""

    number: int = 1  # from 1
    of: int = 1

    @classmethod
    def parse(cls, text: str | None) -> "Share":
        """Parse ``3/16``; null means all. Raises UserError."""
        number, slash, of = (text or "1/1").partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise UserError(f"slice={text}: give K/N with K from 1 to N, such as 3/16")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def shards(self, plan: PlannedShards) -> list[str]:
        """The shards of this slice."""
        return list(plan.shards)[self.number - 1 :: self.of]


def state_file(out: Path, shard: str) -> Path:
    """The state file of a finished shard."""
    return out / PARTIAL / f"{Path(shard).stem}.json"


def unfinished(out: Path, shards: Iterable[str]) -> list[str]:
    """The ``shards`` without a state file."""
    with as_os_error(out):
        there = {path.name for path in (out / PARTIAL).iterdir()} if (out / PARTIAL).exists() else set()
    return [shard for shard in shards if state_file(out, shard).name not in there]


def publish_shard(out: Path, made_of: str, name: str, part: Path, shard: WrittenShard) -> None:
    """Publish a written shard, then its state, which marks it as finished.

    Without locks, another machine may have finished the dataset in the meantime; then this shard is dropped.
    """
    with as_os_error(out):
        if not is_local(out) and (out / MANIFEST_FILE).exists():
            return
    publish(part, out / name)
    write_json(state_file(out, name), {"made_of": made_of, **shard._asdict()})


def made_of(plan: PlannedShards, identity: dict[str, Any]) -> str:
    """Identifies the plan and recipe that a shard was made from."""
    return f"{plan.hash} {identity_hash(identity)}"


def finished(out: Path, identity: dict[str, Any]) -> ShardedDataset | None:
    """The dataset in ``out`` if it is a finished result of this recipe; None if it is empty or unfinished.

    Raises UserError if it is anything else, or damaged.
    """
    with as_os_error(out):
        there = {path.name for path in out.iterdir()} if out.exists() else set()
        begun = any((out / PARTIAL / name).is_file() for name in (PLAN_FILE, LOCK))
        begun = begun or (there == {PARTIAL} and all(OURS.fullmatch(path.name) for path in (out / PARTIAL).iterdir()))
        if not (out / MANIFEST_FILE).exists() and (not (out / INFO_FILE).exists() or begun):
            if there and not begun:
                raise UserError(f"out={out} is not empty and not a sharded dataset: choose another folder")
            return None
    try:
        dataset = ShardedDataset.open(out, check_shards=False)
    except DatasetError as error:
        raise UserError(f"out={out} is damaged: {error}. Delete {out}, then run the same command again") from error
    try:
        dataset = ShardedDataset.open(out)
    except DatasetError as error:
        repair = f"to repair it, run the same command as 'shard repair' with path={out} instead of out="
        raise UserError(f"out={out} is damaged: {error}; {repair}") from error
    if different := differences(dataset.info.recipe, identity):
        raise UserError(f"out={out} holds the shards of another recipe ({different}): choose another out")
    return dataset


def check_output(out: Path, images: Any, key: str = "recipe.images") -> None:
    """Raises UserError if ``out`` is inside the images' folder, the value of ``key``, or not writable, or if the table
    of rejected names would replace another file."""
    own_file(names_file(out), "out", stamp=",".join(REJECTED))
    if not is_local(out):
        return
    source = locate(images, key) if isinstance(images, str) else None
    if source and is_local(source) and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(source)):
        raise UserError(f"out={out} is inside {key}={images}, where what it writes would be listed as images: "
                        "choose a folder outside it")  # fmt: skip
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"out={out}: {there} is not writable: choose another out")


def names_file(out: Path) -> Path:
    """Return the path of ``OUT.rejected.csv``: beside a local ``out``, else in the working directory, as names of files
    do not leave this machine."""
    path = out.resolve() if is_local(out) else Path.cwd() / out.name
    return path.with_name(f"{path.name}.rejected.csv")


def check_unchanged(dataset: ShardedDataset, plan: ShardPlan) -> None:
    """Raises UserError if a finished dataset was made from another plan, i.e. its source has changed."""
    if dataset.info.plan_hash == plan.hash:
        return
    stored = {input_of(row["key"])[0]: row["labels"] for row in dataset.table.select(["key", "labels"]).to_pylist()}
    with open_file(dataset.root / QUARANTINE_FILE) as file:
        rejected = {input_of(key)[0] for key in pq.read_table(file)["source"].to_pylist()}
    here = {item.key: item.record.labels for item in plan}
    there = stored.keys() | rejected
    named = {
        "added": len(here.keys() - there),
        "removed": len(there - here.keys()),
        "with other labels": sum(not _same(stored[key], here[key]) for key in stored.keys() & here.keys()),
    }
    changes = ", ".join(f"{count} images {what}" for what, count in named.items() if count)
    changes = changes or "patients, names of labels, boxes, masks or files"
    raise UserError(
        f"the source has changed since out={dataset.root} was made ({changes}): "
        f"choose another out, or delete {dataset.root} to remake it"
    )


def _same(stored: list[float], here: tuple[float, ...]) -> bool:
    return len(stored) == len(here) and all(
        math.isclose(a, b, rel_tol=1e-6) or (math.isnan(a) and math.isnan(b)) for a, b in zip(stored, here, strict=True)
    )


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """The keys in which two recipe identities differ, with both values (the first four); empty if equal."""
    here = json.loads(json.dumps(here))
    keys = [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
    changes = [f"{key}: {json.dumps(there.get(key))} there, {json.dumps(here.get(key))} here" for key in keys[:4]]
    changes += [f"and {len(keys) - 4} more"] if len(keys) > 4 else []
    changes += ["made with another hash key, see key_file and $DIRA_SCALE_HASH_KEY"] if keys == ["hash_key"] else []
    return "; ".join(changes)
