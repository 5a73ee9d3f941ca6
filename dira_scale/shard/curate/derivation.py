"""Datasets derived from manifests: a part of one dataset (``subset``), or several joined (``merge``).

No shard is copied: the new manifest points to the existing shards, so move them together.
"""

import os
import posixpath
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dira_scale import __version__
from dira_scale.archive.recipe import identity_hash
from dira_scale.base.errors import UserError, print_line
from dira_scale.base.storage.atomic import write_atomic
from dira_scale.base.storage.store import is_local, locate
from dira_scale.dataset.manifest import (
    INFO_FILE,
    MANIFEST_FILE,
    QUARANTINE,
    QUARANTINE_FILE,
    DatasetInfo,
    ShardedDataset,
)
from dira_scale.dataset.manifest.foreground import FOREGROUND_FILE, read_foreground


def empty_folder(out: str | Path) -> Path:
    """``out`` as a folder that is empty, but for what a killed call has left. Raises UserError if it is not."""
    folder = locate(out, "out")
    names = {each.name for each in folder.iterdir() if each.suffix != ".tmp"} if folder.exists() else set()
    if names and not {QUARANTINE_FILE} <= names <= {QUARANTINE_FILE, FOREGROUND_FILE, INFO_FILE}:
        raise UserError(f"out={out} is not empty: choose another folder")
    return folder


def with_relative_shards(dataset: ShardedDataset, table: pa.Table, out: Path) -> pa.Table:
    """``table``, rows of the manifest of ``dataset``, with shard paths relative to ``out``."""
    names = {shard: _from(out, dataset.file(shard)) for shard in pc.unique(table["shard"]).to_pylist()}
    column = pa.array([names[shard] for shard in table["shard"].to_pylist()], pa.string())
    return table.set_column(table.schema.get_field_index("shard"), "shard", column)


def _from(out: Path, shard: Path) -> str:
    if is_local(out) != is_local(shard) or not (is_local(out) or out.fs is shard.fs):  # type: ignore[attr-defined]
        raise UserError(f"out={out} and {shard} must both be on this machine or in one store: no shard is copied")
    if is_local(out):
        return Path(os.path.relpath(os.path.realpath(shard), os.path.realpath(out))).as_posix()
    return posixpath.relpath(shard.path, out.path)  # type: ignore[attr-defined]


def write(
    out: Path, like: DatasetInfo, name: str, recipe: dict[str, Any], table: pa.Table, parents: Sequence[ShardedDataset]
) -> DatasetInfo:
    """Write ``table`` and its description: that of ``like``, updated from ``table`` and with this ``recipe``.

    Raises UserError if no row is left.
    """
    if not table.num_rows:
        roots = ", ".join(str(parent.root) for parent in parents)
        raise UserError(f"out={out}: no sample is left of {roots}; shard stats shows what there is")
    sizes, sums = {}, {}
    for parent in parents:
        for shard, size in parent.info.shards.items():
            path = _from(out, parent.file(shard))
            sizes[path], sums[path] = size, parent.info.checksums.get(shard)
    used = pc.unique(table["shard"]).to_pylist()
    splits = pc.value_counts(table["split"]).to_pylist()
    pairs = table.select(["patient", "split"]).group_by(["patient", "split"]).aggregate([])
    info = replace(
        like,
        name=name,
        counts={entry["values"]: entry["counts"] for entry in splits},
        quarantined=0,  # counted in the source datasets
        shards={shard: sizes[shard] for shard in used},
        checksums={shard: checksum for shard in used if (checksum := sums[shard])},
        recipe=recipe,
        recipe_hash=identity_hash(recipe),
        plan_hash="",
        patients_in_two_splits=pairs.num_rows - len(pc.unique(pairs["patient"])),
        tool_version=__version__,
    )
    out.mkdir(parents=True, exist_ok=True)
    _put(out / QUARANTINE_FILE, QUARANTINE.empty_table())
    parts = [read_foreground(parent.root) for parent in parents if parent.has_mask(slice(None)).any()]
    known = [part for part in parts if part is not None]
    if known and len(known) == len(parts):  # else crops would be drawn around what is in some of them
        foreground = pa.concat_tables(known)
        kept = pc.is_in(foreground["key"], value_set=table["key"].combine_chunks())
        _put(out / FOREGROUND_FILE, foreground.filter(kept))
    write_atomic(out / INFO_FILE, info.to_json())
    _put(out / MANIFEST_FILE, table)  # last: a folder that has one is complete
    return info


def _put(path: Path, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def print_summary(out: Path, info: DatasetInfo) -> None:
    """Print what was made."""
    counts = ", ".join(f"{split} {count}" for split, count in info.counts.items())
    print_line(f"{out}: {counts} samples in {len(info.shards)} shards, which were not copied: move them together")
