"""The folder that is written: whether it is finished, and of what (``claim.py``: who is at work on it).

While it is being made, a dataset has a folder ``.partial``::

    .partial/
      plan.json            what is being made: recipe, hash key, hash of the plan
      lock                 held by the one process that directs the work, or shared by those that do slices of it
      train-000000.tar     a shard being written; when it is whole and on the disk, it is renamed into the dataset
      train-000000.json    written after that: the shard's size, checksum, manifest rows and rejected inputs
      3-of-16/             lock and unfinished shards of a process that does a slice

In an object store nothing can be locked or renamed. There ``.partial`` has the finished shards' states only; locks and
unfinished shards lie in the folder for temporary files, and a shard is uploaded when it is whole. Two machines that do
the same shards there write the same bytes twice; one that comes late, when the dataset is joined, uploads nothing.
A dataset with a manifest is finished, whatever ``.partial`` lies beside it: that is removed.
"""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from dira_scale.data.manifest import INFO_FILE, MANIFEST_FILE, QUARANTINE_FILE, DatasetError, ShardedDataset
from dira_scale.errors import UserError
from dira_scale.ingest.plan import ShardPlan
from dira_scale.ingest.recipe import identity_hash
from dira_scale.ingest.writer import Shard
from dira_scale.places.atomic import publish, write_json
from dira_scale.places.store import as_os_error, is_local, locate, open_file

PARTIAL = ".partial"


class Slice(NamedTuple):
    """The part of the shards that one process writes: every ``of``-th."""

    number: int = 1  # from 1
    of: int = 1

    @classmethod
    def parse(cls, text: str | None) -> "Slice":
        """``3/16``; null is all. Raises UserError."""
        number, slash, of = (text or "1/1").partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise UserError(f"slice={text}: give K/N with K from 1 to N, such as 3/16")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def shards(self, plan: ShardPlan) -> list[str]:
        """Those of this slice."""
        return list(plan.shards)[self.number - 1 :: self.of]


def state_file(out: Path, shard: str) -> Path:
    """Where the state of a finished shard is."""
    return out / PARTIAL / f"{Path(shard).stem}.json"


def unfinished(out: Path, shards: Iterable[str]) -> list[str]:
    """Those of ``shards`` that have no state yet."""
    with as_os_error(out):
        there = {path.name for path in (out / PARTIAL).iterdir()} if (out / PARTIAL).exists() else set()
    return [shard for shard in shards if state_file(out, shard).name not in there]


def keep(out: Path, made_of: str, name: str, part: Path, shard: Shard) -> None:
    """Publish a written shard, then its state: now it need not be written again.

    Where nothing is locked, others may have finished the dataset in the meantime: then it is theirs that counts.
    """
    with as_os_error(out):
        if not is_local(out) and (out / MANIFEST_FILE).exists():
            return
    publish(part, out / name)
    write_json(state_file(out, name), {"made_of": made_of, **shard._asdict()})


def made_of(plan: ShardPlan, identity: dict[str, Any]) -> str:
    """Tells the shards of one plan and recipe from those of another."""
    return f"{plan.hash} {identity_hash(identity)}"


def finished(out: Path, identity: dict[str, Any]) -> ShardedDataset | None:
    """The dataset in ``out`` if it is a finished result of this recipe; None when it is empty or unfinished.

    Raises UserError when it is anything else, or damaged.
    """
    with as_os_error(out):
        begun = (out / PARTIAL).is_dir()
        if not (out / MANIFEST_FILE).exists() and (not (out / INFO_FILE).exists() or begun):
            if not begun and out.exists() and any(out.iterdir()):
                raise UserError(f"out={out} is not empty and is no sharded dataset: choose another folder")
            return None
    try:
        dataset = ShardedDataset.open(out, check_shards=False)
    except DatasetError as error:
        raise UserError(f"out={out} is damaged: {error}. Delete {out} and type the command again") from error
    try:
        dataset = ShardedDataset.open(out)
    except DatasetError as error:
        repair = f"the same command as 'shard repair', with path={out} instead of out=, writes it anew"
        raise UserError(f"out={out} is damaged: {error}; {repair}") from error
    if different := differences(dataset.info.recipe, identity):
        raise UserError(f"out={out} holds the shards of another recipe ({different}): choose another out")
    return dataset


def check_place(out: Path, images: Any) -> None:
    """Raises UserError when ``out`` lies among the images that it is to be made of, or may not be written to."""
    if not is_local(out):
        return
    source = locate(images, "recipe.images") if isinstance(images, str) else None
    if source and is_local(source) and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(source)):
        raise UserError(f"out={out} lies in recipe.images={images}, where its shards would be taken for images: choose "
                        "a folder beside it")  # fmt: skip
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"out={out}: {there} may not be written to: choose another out")


def check_unchanged(dataset: ShardedDataset, plan: ShardPlan) -> None:
    """Raises UserError when a finished dataset was made of another plan: its source has changed."""
    if dataset.info.plan_hash == plan.hash:
        return
    stored = {row["key"]: row["labels"] for row in dataset.table.select(["key", "labels"]).to_pylist()}
    with open_file(dataset.root / QUARANTINE_FILE) as file:
        rejected = pq.read_table(file)["source"].to_pylist()
    here = {item.key: item.record.labels for item in plan}
    there = stored.keys() | set(rejected)
    named = {
        "added": len(here.keys() - there),
        "removed": len(there - here.keys()),
        "with other labels": sum(not _same(stored[key], here[key]) for key in stored.keys() & here.keys()),
    }
    told = ", ".join(f"{count} images {what}" for what, count in named.items() if count)
    told = told or "patients, names of labels, boxes, masks or files"
    raise UserError(
        f"the source has changed since out={dataset.root} was made ({told}): "
        f"choose another out, or delete {dataset.root} to make it anew"
    )


def _same(stored: list[float], here: tuple[float, ...]) -> bool:
    return len(stored) == len(here) and all(
        math.isclose(a, b, rel_tol=1e-6) or (math.isnan(a) and math.isnan(b)) for a, b in zip(stored, here, strict=True)
    )


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """The keys in which two recipes' identities differ, with both values, of many the first; empty if they do not."""
    here = json.loads(json.dumps(here))
    keys = [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
    told = [f"{key}: {json.dumps(there.get(key))} there, {json.dumps(here.get(key))} here" for key in keys[:4]]
    told += [f"and {len(keys) - 4} more"] if len(keys) > 4 else []
    told += ["made with another key, see key_file and $DIRA_SCALE_HASH_KEY"] if keys == ["hash_key"] else []
    return "; ".join(told)
