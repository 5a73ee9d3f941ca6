"""Finish a dataset once all shards exist: quarantine, description, dataset.json, and last the manifest."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dira_scale import __version__
from dira_scale.archive.claim import ShardState, made_of, read_state, state_file
from dira_scale.archive.output import PARTIAL, beside
from dira_scale.archive.plan import PlannedShards, ShardPlan, input_of
from dira_scale.archive.recipe import Recipe, identity_hash
from dira_scale.archive.sample import FILLED
from dira_scale.archive.slices import modality_of
from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import open_new, publish
from dira_scale.base.storage.owned import REJECTED
from dira_scale.base.storage.store import as_os_error, remove
from dira_scale.base.storage.tables import harmless
from dira_scale.dataset.manifest import (
    INDEX_FILE,
    INFO_FILE,
    MANIFEST_FILE,
    QUARANTINE,
    QUARANTINE_FILE,
    DatasetInfo,
    schema_of,
)
from dira_scale.dataset.manifest.croissant import croissant
from dira_scale.dataset.manifest.foreground import FOREGROUND, FOREGROUND_FILE
from dira_scale.dataset.manifest.index_files import write_index
from dira_scale.dataset.manifest.several import in_two_splits

ROWS_AT_ONCE = 2**14  # per row group: about this many rows are in memory at most


class TableWriter:
    """A Parquet file written one row group at a time. A context manager: the file is complete on exit."""

    def __init__(self, path: Path, schema: pa.Schema):
        self._schema, self._waiting, self._rows = schema, list[pa.Table](), 0
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, rows: pa.Table | list[dict[str, Any]]) -> None:
        """Append rows: a table of the schema, or mappings of its columns, and others, which are left out."""
        self._waiting.append(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, self._schema))
        self._rows += len(rows)
        if self._rows >= ROWS_AT_ONCE:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks())
        self._waiting, self._rows = [], 0

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._write()
        self._writer.close()


@dataclass(frozen=True)
class ConversionOutcome:
    """The result of a conversion."""

    info: DatasetInfo
    reasons: Counter[str]
    rejected_names: Path | None
    filled: tuple[int, int]  # volumes with interpolated slices, and the number of these slices
    absent: list[str]  # attributes of the recipe that no sample has
    noted: Counter[str] = field(default_factory=Counter)  # what is odd about inputs that were taken


def finish(out: Path, plan: ShardPlan, recipe: Recipe, identity: dict[str, Any], scratch: Path) -> ConversionOutcome:
    """Join the shard states into the dataset's tables, shard by shard, and remove ``.partial``.

    Raises UserError if no input was usable, and leaves nothing behind, so that the corrected command can start.
    """
    counts: Counter[str] = Counter()
    sizes, checksums, reasons, noted = {}, {}, Counter[str](), Counter[str]()
    filled = dict[str, int]()  # by volume that lacked slices
    kept = set[str]()  # attributes that some sample has
    refusing = list[tuple[str, int]]()  # shards, with the number of refused inputs
    for shard, state, rows in joined(out, plan, identity, scratch):
        sizes[shard], checksums[shard] = state.size, state.xxh3
        counts[shard.rpartition("-")[0]] += rows.num_rows
        attributes = rows["attributes"].combine_chunks()
        names = set(pc.unique(attributes.keys).to_pylist())
        kept |= names
        for key, own in zip(rows["key"].to_pylist(), attributes.to_pylist(), strict=True) if FILLED in names else ():
            filled.update((input_of(key)[0], int(value)) for name, value in own if name == FILLED)
        reasons.update(refused.reason for refused in state.rejected)
        noted.update(state.noted)
        refusing += [(shard, len(state.rejected))] if state.rejected else []
    names_file = beside(out, "rejected.csv") if reasons else None
    if names_file:
        _write_names(names_file, plan, scratch / QUARANTINE_FILE, refusing)
    if not counts.total():
        with as_os_error(out):
            for shard in plan.shards:
                (out / shard).unlink(missing_ok=True)
        remove(out / PARTIAL)
        remove(scratch)
        most = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
        raise UserError(f"none of the {len(plan)} inputs is usable: {most} (full list: {names_file})")
    modality = recipe.modality
    if not modality:
        refused = set(pq.read_table(scratch / QUARANTINE_FILE, columns=["source"])["source"].to_pylist())
        modality = modality_of(modality for key, modality in plan.modalities() if key not in refused)
    manifest = scratch / MANIFEST_FILE
    info = DatasetInfo(
        name=recipe.name,
        modality=modality,
        dims=2 if recipe.slices else recipe.dims,
        codec=recipe.codec,
        label_names=list(plan.label_names),
        classes=plan.classes,
        channels=list(plan.channels),
        counts=dict(counts),
        quarantined=reasons.total(),
        shards=sizes,
        checksums=checksums,
        recipe=identity,
        recipe_hash=identity_hash(identity),
        plan_hash=plan.hash,
        patients_in_two_splits=in_two_splits(manifest, [*counts], counts.total()) if recipe.listed else 0,
        licence=recipe.licence,
        tool_version=__version__,
    )
    publish_dataset(out, scratch, info)
    absent = [name for name in recipe.source.get("attributes") or () if name not in kept]
    filled_in = len(filled), sum(filled.values())
    return ConversionOutcome(info, reasons, names_file, filled_in, absent, noted)


def publish_dataset(out: Path, scratch: Path, info: DatasetInfo) -> None:
    """Publish the tables in ``scratch`` and their description, the manifest last; remove what was only for writing."""
    (scratch / INFO_FILE).write_text(info.to_json())
    (scratch / "croissant.json").write_text(json.dumps(croissant(info, scratch / MANIFEST_FILE), indent=1) + "\n")
    sizes = pq.read_table(scratch / MANIFEST_FILE, columns=["mask_size"])["mask_size"]
    masks = [FOREGROUND_FILE] if info.dims == 3 and sizes.null_count < len(sizes) else []
    write_index(scratch / MANIFEST_FILE, info, scratch / INDEX_FILE)
    for name in (QUARANTINE_FILE, *masks, "croissant.json", INFO_FILE, INDEX_FILE, MANIFEST_FILE):
        publish(scratch / name, out / name)
    remove(out / PARTIAL)
    remove(scratch)


def joined(
    out: Path, plan: PlannedShards, identity: dict[str, Any], scratch: Path
) -> Iterator[tuple[str, ShardState, pa.Table]]:
    """The state of each finished shard, and its rows, which are added to the tables in ``scratch``.

    Raises UserError for a shard made from another plan or recipe, or whose state is damaged.
    """
    expected, schema = made_of(plan, identity), schema_of(plan.channels)
    with (
        TableWriter(scratch / MANIFEST_FILE, schema) as manifest,
        TableWriter(scratch / QUARANTINE_FILE, QUARANTINE) as quarantine,
        TableWriter(scratch / FOREGROUND_FILE, FOREGROUND) as foreground,
    ):
        for shard in plan.shards:
            state, rows, voxels = read_state(out, shard, schema)
            if state.made_of != expected:  # two slices started at once with different images or recipes
                raise UserError(f"out={out}: {shard} was made from other images or another recipe: delete it and "
                                f"{state_file(out, shard)}, then run the same command again")  # fmt: skip
            manifest.add(rows)
            quarantine.add([refused._asdict() for refused in state.rejected])
            foreground.add(voxels)
            yield shard, state, rows


def _write_names(path: Path, plan: ShardPlan, quarantine: Path, refusing: Sequence[tuple[str, int]]) -> None:
    """Write the rejected inputs by name, beside the dataset rather than in it: file names may identify patients.
    ``refusing``: the shards of the quarantine's rows, and how many are of each."""
    part = path.with_name(f".{path.name}.part")
    entries = (entry for batch in pq.ParquetFile(quarantine).iter_batches() for entry in batch.to_pylist())
    with io.TextIOWrapper(open_new(part, private=True), "utf-8", errors="surrogateescape", newline="") as file:
        table = csv.writer(file)
        table.writerow(REJECTED)
        for shard, count in refusing:
            names = {item.key: item.record.name for item in plan.items(shard)}
            for entry in islice(entries, count):
                key, index = input_of(entry["source"])
                name = f"{names[key]}/{index}" if index else names[key]
                table.writerow(harmless([name, entry["stage"], entry["reason"]]))
    publish(part, path)
