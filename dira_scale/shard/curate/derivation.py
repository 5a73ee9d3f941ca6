"""Datasets derived from manifests: a part of one dataset (``subset``), or several joined (``merge``).

No shard is copied: the new manifest points to the existing shards, so move them together.
"""

import os
import posixpath
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dira_scale import __version__
from dira_scale.archive.finish import ROWS_AT_ONCE
from dira_scale.archive.recipe import identity_hash
from dira_scale.base.errors import UserError, print_line
from dira_scale.base.storage.atomic import publish
from dira_scale.base.storage.store import in_store, is_local, locate, remove
from dira_scale.dataset.manifest import (
    INDEX_FILE,
    INFO_FILE,
    MANIFEST_FILE,
    QUARANTINE,
    QUARANTINE_FILE,
    DatasetInfo,
    ShardedDataset,
)
from dira_scale.dataset.manifest.foreground import FOREGROUND, FOREGROUND_FILE, foreground_parts
from dira_scale.dataset.manifest.index_files import write_index
from dira_scale.dataset.manifest.several import in_two_splits

SCRATCH = ".dira_scale-"  # begins the name of the folder in which a new dataset is written


def empty_folder(out: str | Path) -> Path:
    """``out`` as a folder that is empty, but for what a killed call has left. Raises UserError if it is not."""
    folder = locate(out, "out")
    there = [each.name for each in folder.iterdir()] if folder.exists() else []
    names = {name for name in there if not name.startswith(SCRATCH) and not name.endswith(".tmp")}
    if names and not {QUARANTINE_FILE} <= names <= {QUARANTINE_FILE, FOREGROUND_FILE, INFO_FILE, INDEX_FILE}:
        raise UserError(f"out={out} is not empty: choose another folder")
    return folder


class Parent(NamedTuple):
    """A dataset whose rows a new one has, and the paths of its shards from the new folder, by their names."""

    dataset: ShardedDataset
    paths: dict[str, str]

    @classmethod
    def of(cls, dataset: ShardedDataset, out: Path) -> "Parent":
        """Raises UserError if the shards cannot be reached from ``out``."""
        paths, local = dict[str, str](), is_local(out)
        for shard, file in ((shard, dataset.file(shard)) for shard in dataset.info.shards):
            if local != is_local(file) or not (local or in_store(out)[0] is in_store(file)[0]):
                both = f"out={out} and {file} must both be on this machine or in one store"
                raise UserError(f"{both}: no shard is copied")
            if local:
                paths[shard] = Path(os.path.relpath(os.path.realpath(file), os.path.realpath(out))).as_posix()
            else:
                paths[shard] = posixpath.relpath(in_store(file)[1], in_store(out)[1])
        return cls(dataset, paths)

    def batches(self) -> Iterator[pa.Table]:
        """Yield all rows, some at a time, with the paths of their shards."""
        for rows in self.dataset.manifest.batches(self.dataset.info.schema.names):
            shards = rows["shard"].combine_chunks().dictionary_encode()
            paths = pa.array([self.paths[shard] for shard in shards.dictionary.to_pylist()], pa.string())
            yield rows.set_column(rows.schema.get_field_index("shard"), "shard", paths.take(shards.indices))


def write(
    out: Path, like: DatasetInfo, name: str, recipe: dict[str, Any], rows: Iterable[pa.Table], parents: Sequence[Parent]
) -> DatasetInfo:
    """Write ``rows`` and their description: that of ``like``, updated from the rows and with this ``recipe``.

    All is written into a folder ``*.tmp`` in ``out``, then moved, the manifest last: what a killed call leaves, the
    next one removes. Raises UserError if no row is left.
    """
    for left in out.glob(f"{SCRATCH}*") if is_local(out) else ():
        remove(left) if left.is_dir() else left.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp("", SCRATCH, out if is_local(out) else None))
    try:
        counts, used = write_rows(scratch / MANIFEST_FILE, like.schema, rows)
        if not counts:
            roots = ", ".join(str(parent.dataset.root) for parent in parents)
            raise UserError(f"out={out}: no sample is left of {roots}; shard stats shows what there is")
        shards = {path: (of.info, shard) for of, paths in parents for shard, path in paths.items()}
        info = replace(
            like,
            name=name,
            counts=counts,
            quarantined=0,  # counted in the source datasets
            shards={path: shards[path][0].shards[shards[path][1]] for path in used},
            checksums={path: sum_ for path in used if (sum_ := shards[path][0].checksums.get(shards[path][1]))},
            recipe=recipe,
            recipe_hash=identity_hash(recipe),
            plan_hash="",
            patients_in_two_splits=in_two_splits(scratch / MANIFEST_FILE, [*counts], sum(counts.values())),
            tool_version=__version__,
        )
        pq.write_table(QUARANTINE.empty_table(), scratch / QUARANTINE_FILE, compression="zstd")
        masked = [of.root for of, _ in parents if of.has_mask(slice(None)).any()] if info.dims == 3 else []
        # Else crops would be drawn around what is in some of them.
        if masked and all((root / FOREGROUND_FILE).exists() for root in masked):
            keys = pq.read_table(scratch / MANIFEST_FILE, columns=["key"])["key"].combine_chunks()  # of volumes: few
            with pq.ParquetWriter(scratch / FOREGROUND_FILE, FOREGROUND, compression="zstd") as file:
                for part in (part for root in masked for part in foreground_parts(root, keys)):
                    file.write_table(part)
        (scratch / INFO_FILE).write_text(info.to_json())
        write_index(scratch / MANIFEST_FILE, info, scratch / INDEX_FILE)
        for name in (QUARANTINE_FILE, FOREGROUND_FILE, INFO_FILE, INDEX_FILE, MANIFEST_FILE):  # complete with the last
            if (scratch / name).exists():
                publish(scratch / name, out / name)
    except BaseException:
        remove(scratch)
        with suppress(OSError):  # unless it has what was there before
            out.rmdir()
        raise
    remove(scratch)
    return info


def write_rows(path: Path, schema: pa.Schema, rows: Iterable[pa.Table]) -> tuple[dict[str, int], list[str]]:
    """Write groups of rows; how many each split has, and the shards, both in the order of the rows."""
    counts, shards, waiting = Counter[str](), dict[str, None](), [schema.empty_table()]
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for table in rows:
            counts.update({split["values"]: split["counts"] for split in pc.value_counts(table["split"]).to_pylist()})
            shards |= dict.fromkeys(pc.unique(table["shard"]).to_pylist())
            waiting.append(table)
            if sum(map(len, waiting)) >= ROWS_AT_ONCE:
                file.write_table(pa.concat_tables(waiting).combine_chunks(), ROWS_AT_ONCE)
                waiting.clear()
        if any(map(len, waiting)):
            file.write_table(pa.concat_tables(waiting).combine_chunks(), ROWS_AT_ONCE)
    return dict(counts), [*shards]


def print_summary(out: Path, info: DatasetInfo) -> None:
    """Print what was made."""
    counts = ", ".join(f"{split} {count}" for split, count in info.counts.items())
    print_line(f"{out}: {counts} samples in {len(info.shards)} shards, which were not copied: move them together")
