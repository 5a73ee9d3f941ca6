"""The state of the output folder: empty, a finished dataset, or an unfinished one (``claim.py`` writes it).

An unfinished dataset has a folder ``.partial``::

    .partial/
      plan.json            recipe, hash key, hash of the plan
      lock                 held exclusively by a full conversion, or shared by processes that write slices
      train-000000.tar     a shard being written; once complete and on disk, it is renamed into the dataset
      train-000000.parquet written after that: its manifest rows; in the metadata size, checksum, rejected inputs
      3-of-16/             lock and unfinished shards of a process that writes a slice
      listed/, plan/       of `shard list` (listed.py, stored_plan.py)

Object stores have no locks or renames. There ``.partial`` holds only the states of finished shards; locks and
unfinished shards are in the temporary folder, and a shard is uploaded once complete. Two machines that write the same
shards write the same bytes twice; one that is late, after the dataset is joined, uploads nothing.
A dataset with a manifest is finished; a remaining ``.partial`` is removed.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dira_scale.archive.plan import MadePlan, input_of
from dira_scale.base.errors import UserError
from dira_scale.base.storage.owned import REJECTED, own_file
from dira_scale.base.storage.store import as_os_error, is_local, locate, open_file
from dira_scale.dataset.manifest import INFO_FILE, MANIFEST_FILE, QUARANTINE_FILE, DatasetError, ShardedDataset

PARTIAL = ".partial"
PLAN_FILE, LOCK = "plan.json", "lock"
# What else is in .partial: shards and their states, slices, what `words` has computed.
OURS = re.compile(r"[^/]+-[0-9]{6}\.(tar|parquet|json)|listed|plan|[0-9]+-of-[0-9]+|descriptors-[0-9a-f]{16}")


def completed(recipe: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Return ``recipe``; a null name, modality or shard size is taken from the dataset at ``out``, finished or
    begun.

    Thus a dataset that was moved is still that of its recipe. A new one is named after its folder, and its modality
    stays null: ``slices.with_modality`` finds it in the inputs. Raises OSError.
    """
    stored: dict[str, Any] = {}
    for file in (out / PARTIAL / PLAN_FILE, out / INFO_FILE):  # one that cannot be read is reported elsewhere
        with suppress(FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError), \
                as_os_error(out):  # fmt: skip
            content = json.loads(file.read_text())["recipe"]
            kinds = {"shard_size": int}
            stored = {key: value for key, value in content.items() if isinstance(value, kinds.get(key, str))}
    name = Path(os.path.abspath(out)).name if is_local(out) else out.name  # noqa: PTH100 (a link keeps its name)
    name = "".join(letter if letter.isprintable() else "_" for letter in name) or "dataset"
    name = recipe.get("name") or stored.get("name") or name
    open_size = recipe.get("shard_size", 0) is None and "shard_size" in stored
    sized = {"shard_size": stored["shard_size"]} if open_size else {}
    return {**recipe, "name": name, "modality": recipe.get("modality") or stored.get("modality"), **sized}


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
    """Raises UserError if ``out``, or what is written :func:`beside` it, is inside the images' folder, the value of
    ``key``, or ``out`` is not writable, or if the table of rejected names would replace another file."""
    own_file(beside(out, "rejected.csv"), "out", stamp=",".join(REJECTED))
    source, writes = locate(images, key) if isinstance(images, str) else None, out if is_local(out) else Path.cwd()
    if source and is_local(source) and Path(os.path.realpath(writes)).is_relative_to(os.path.realpath(source)):
        what, cure = f"out={out}", "choose a folder outside it"
        if not is_local(out):
            what, cure = f"the working directory, which gets {beside(out, 'rejected.csv').name},", "work outside it"
        raise UserError(f"{what} is inside {key}={images}, where what is written would be listed as images: {cure}")
    if not is_local(out):
        return
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"out={out}: {there} is not writable: choose another out")


def beside(out: Path, name: str) -> Path:
    """Return the path of ``OUT.name``: beside a local ``out``, else in the working directory, as names of files and
    refused images do not leave this machine."""
    path = out.resolve() if is_local(out) else Path.cwd() / out.name
    return path.with_name(f"{path.name}.{name}")


def check_unchanged(dataset: ShardedDataset, plan: MadePlan) -> None:
    """Raises UserError if a finished dataset was made from another plan, i.e. its source has changed."""
    if dataset.info.plan_hash == plan.hash:
        return
    added, removed = plan.differences(input_of(key)[0] for key in _inputs(dataset.root))
    changes = [f"{added} images added"] if added else []
    changes += [f"{removed} images removed"] if removed else []
    what = ", ".join(changes) or "labels and their names, patients, splits, boxes, masks or files"
    raise UserError(
        f"the source has changed since out={dataset.root} was made ({what}): choose another out, or delete "
        f"{dataset.root} to remake it"
    )


def _inputs(root: Path) -> Iterator[str]:
    for name, column in ((MANIFEST_FILE, "key"), (QUARANTINE_FILE, "source")):
        with open_file(root / name) as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=[column]):
                yield from batch[column].to_pylist()


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """The keys in which two recipe identities differ, with both values (the first four); empty if equal."""
    there, here = json.loads(json.dumps([there, here]))
    keys = [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
    changes = [f"{key}: {json.dumps(there.get(key))} there, {json.dumps(here.get(key))} here" for key in keys[:4]]
    changes += [f"and {len(keys) - 4} more"] if len(keys) > 4 else []
    changes += ["made with another hash key, see key_file and $DIRA_SCALE_HASH_KEY"] if keys == ["hash_key"] else []
    return "; ".join(changes)
