"""Finish a dataset once all shards exist: quarantine, description, dataset.json, and last the manifest."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dira_scale import __version__
from dira_scale.archive.claim import made_of, state_file
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

ROWS_AT_ONCE = 2**14  # per row group: about this many rows are in memory at most


class TableWriter:
    """A Parquet file written one row group at a time. A context manager: the file is complete on exit."""

    def __init__(self, path: Path, schema: pa.Schema):
        self._schema, self._waiting, self._rows = schema, list[pa.Table](), 0
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Append rows, each a mapping of the schema's columns, and others, which are left out."""
        self._waiting.append(pa.Table.from_pylist(rows, self._schema))
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
    for shard, state in joined(out, plan, identity, scratch):
        sizes[shard], checksums[shard] = state["size"], state["xxh3"]
        counts[shard.rpartition("-")[0]] += len(state["rows"])
        lacking = (row for row in state["rows"] if FILLED in row["attributes"])
        filled.update((input_of(row["key"])[0], int(row["attributes"][FILLED])) for row in lacking)
        kept.update(*(row["attributes"] for row in state["rows"]))
        reasons.update(entry["reason"] for entry in state["rejected"])
        noted.update(state["noted"])
    names = beside(out, "rejected.csv") if reasons else None
    if names:
        _write_names(names, plan, scratch / QUARANTINE_FILE)
    if not counts.total():
        with as_os_error(out):
            for shard in plan.shards:
                (out / shard).unlink(missing_ok=True)
        remove(out / PARTIAL)
        remove(scratch)
        most = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
        raise UserError(f"none of the {len(plan)} inputs is usable: {most} (full list: {names})")
    modality = recipe.modality
    if not modality:
        refused = set(pq.read_table(scratch / QUARANTINE_FILE, columns=["source"])["source"].to_pylist())
        modality = modality_of(item.record.modality for item in plan if item.key not in refused)
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
        patients_in_two_splits=_patients_in_two_splits(scratch / MANIFEST_FILE) if recipe.listed else 0,
        licence=recipe.licence,
        tool_version=__version__,
    )
    publish_dataset(out, scratch, info)
    absent = [name for name in recipe.source.get("attributes") or () if name not in kept]
    filled_in = len(filled), sum(filled.values())
    return ConversionOutcome(info, reasons, names, filled_in, absent, noted)


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


def _patients_in_two_splits(manifest: Path) -> int:
    pairs = pq.read_table(manifest, columns=["patient", "split"]).group_by(["patient", "split"]).aggregate([])
    return int(pairs.num_rows - pc.count_distinct(pairs["patient"]).as_py())


def joined(
    out: Path, plan: PlannedShards, identity: dict[str, Any], scratch: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The state of each finished shard, whose rows are added to the tables in ``scratch``.

    Raises UserError for a shard made from another plan or recipe.
    """
    expected = made_of(plan, identity)
    with (
        TableWriter(scratch / MANIFEST_FILE, schema_of(plan.channels)) as manifest,
        TableWriter(scratch / QUARANTINE_FILE, QUARANTINE) as quarantine,
        TableWriter(scratch / FOREGROUND_FILE, FOREGROUND) as foreground,
    ):
        for shard in plan.shards:
            path = state_file(out, shard)
            with as_os_error(path):
                state = json.loads(path.read_text())
            if state.get("made_of") != expected:  # two slices started at once with different images or recipes
                raise UserError(f"out={out}: {shard} was made from other images or another recipe: delete it and "
                                f"{path}, then run the same command again")  # fmt: skip
            manifest.add([row | {"attributes": list(row["attributes"].items())} for row in state["rows"]])
            quarantine.add(state["rejected"])
            foreground.add([of_class for row in state["rows"] for of_class in row.get("foreground", [])])
            yield shard, state


def _write_names(path: Path, plan: ShardPlan, quarantine: Path) -> None:
    """Write the rejected inputs by name, beside the dataset rather than in it: file names may identify patients."""
    part = path.with_name(f".{path.name}.part")
    with io.TextIOWrapper(open_new(part, private=True), "utf-8", errors="surrogateescape", newline="") as file:
        table = csv.writer(file)
        table.writerow(REJECTED)
        for batch in pq.ParquetFile(quarantine).iter_batches():
            for entry in batch.to_pylist():
                key, index = input_of(entry["source"])
                name = plan.item(key).record.name
                row = [f"{name}/{index}" if index else name, entry["stage"], entry["reason"]]
                table.writerow(harmless(row))
    publish(part, path)
