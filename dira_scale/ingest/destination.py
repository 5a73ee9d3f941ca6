"""The folder that is written: whether it is finished, of what, and who is at work on it.

While it is being made, a dataset has a folder ``.partial``::

    .partial/
      plan.json            what is being made: recipe, hash key, hash of the plan
      lock                 held by the one process that directs the work
      train-000000.tar     a shard being written; when it is whole and on the disk, it is renamed into the dataset
      train-000000.json    written after that: the shard's manifest rows and rejected inputs
"""

import contextlib
import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dira_scale.data.manifest import INFO_FILE, MANIFEST_FILE, QUARANTINE_FILE, DatasetError, ShardedDataset
from dira_scale.errors import UserError
from dira_scale.files import sync_folder, write_json
from dira_scale.ingest.plan import Plan

PARTIAL = ".partial"


def state_file(out: Path, shard: str) -> Path:
    """Where the state of a finished shard is."""
    return out / PARTIAL / f"{Path(shard).stem}.json"


def publish(part: Path, final: Path) -> None:
    """Bring a written file to the disk, then to its name."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(final)
    sync_folder(final.parent)


def finished(out: Path, identity: dict[str, Any]) -> ShardedDataset | None:
    """The dataset in ``out`` if it is a finished result of this recipe; None when it is empty or unfinished.

    Raises UserError when it is anything else, or damaged.
    """
    if not (out / MANIFEST_FILE).exists() and (not (out / INFO_FILE).exists() or (out / PARTIAL).is_dir()):
        if out.exists() and any(out.iterdir()) and not (out / PARTIAL).is_dir():
            raise UserError(f"out={out} is not empty and is no sharded dataset: choose another folder")
        return None
    try:
        dataset = ShardedDataset.open(out)
    except DatasetError as error:
        raise UserError(f"out={out} is damaged: {error}. Delete {out} and type the command again") from error
    if different := _differences(dataset.info.recipe, identity):
        raise UserError(f"out={out} holds the shards of another recipe ({different}): choose another out")
    shutil.rmtree(out / PARTIAL, ignore_errors=True)  # left by a kill between the manifest and the end
    return dataset


def check_unchanged(dataset: ShardedDataset, plan: Plan) -> None:
    """Raises UserError when a finished dataset was made of another plan: its source has changed."""
    if dataset.info.plan_hash == plan.hash:
        return
    stored = {row["key"]: row["labels"] for row in dataset.table.select(["key", "labels"]).to_pylist()}
    rejected = pq.read_table(dataset.root / QUARANTINE_FILE)["source"].to_pylist()
    here = {item.key: item.record.labels for item in plan.items}
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


@contextlib.contextmanager
def claimed(out: Path, identity: dict[str, Any], plan: Plan) -> Iterator[None]:
    """Hold ``out`` for this process; what is unfinished there must be of the same recipe and the same inputs.

    Raises UserError when another process holds it, or recipe or inputs differ.
    """
    partial = out / PARTIAL
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is writing out={out}: wait for it, or choose another out") from error
        state = partial / "plan.json"
        if not state.exists():
            write_json(state, {"recipe": identity, "plan": plan.hash})
        begun = json.loads(state.read_text())
        if different := _differences(begun["recipe"], identity):
            raise UserError(f"out={out} holds an unfinished conversion of another recipe ({different}): "
                            "give the same one, or delete the folder")  # fmt: skip
        if begun["plan"] != plan.hash:
            raise UserError(f"the images, labels or splits have changed since out={out} was begun: delete the folder "
                            "and begin again")  # fmt: skip
        yield


def _differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    here = json.loads(json.dumps(here))
    keys = [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
    return "; ".join(f"{key}: {json.dumps(there.get(key))} there, {json.dumps(here.get(key))} here" for key in keys)
