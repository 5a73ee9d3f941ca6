"""What is written when all shards are there: quarantine, description, dataset.json, and last the manifest."""

import csv
import io
import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dira_scale import __version__
from dira_scale.data.manifest import INFO_FILE, MANIFEST_FILE, QUARANTINE, QUARANTINE_FILE, SCHEMA, DatasetInfo
from dira_scale.errors import UserError
from dira_scale.ingest.croissant import croissant
from dira_scale.ingest.destination import PARTIAL, publish, state_file
from dira_scale.ingest.plan import Plan
from dira_scale.ingest.recipe import Recipe, identity_hash


@dataclass(frozen=True)
class Outcome:
    """What became of the inputs."""

    info: DatasetInfo
    reasons: Counter[str]
    rejected_names: Path | None


def finish(out: Path, plan: Plan, recipe: Recipe, identity: dict[str, Any]) -> Outcome:
    """Join the shards' states into the dataset's tables, and remove ``.partial``.

    Raises UserError when no input at all could be used.
    """
    states = {shard: json.loads(state_file(out, shard).read_text()) for shard in plan.shards}
    rejected = [entry for state in states.values() for entry in state["rejected"]]
    reasons = Counter(entry["reason"] for entry in rejected)
    names = _list_rejected(out, plan, rejected) if rejected else None
    if len(rejected) == len(plan.items):
        raise UserError(f"none of the {len(rejected)} inputs is usable: {_top(reasons)} (all of them: {names})")
    part = out / PARTIAL
    table = pa.concat_tables([_table(state["rows"]) for state in states.values()]).combine_chunks()
    pq.write_table(table, part / MANIFEST_FILE, compression="zstd")
    pq.write_table(pa.Table.from_pylist(rejected, QUARANTINE), part / QUARANTINE_FILE, compression="zstd")
    info = DatasetInfo(
        name=recipe.name,
        modality=recipe.modality,
        dims=2,
        codec=recipe.codec,
        label_names=list(plan.label_names),
        counts=_counts(states),
        quarantined=len(rejected),
        shards={shard: (out / shard).stat().st_size for shard in plan.shards},
        recipe=identity,
        recipe_hash=identity_hash(identity),
        plan_hash=plan.hash,
        licence=recipe.licence,
        tool_version=__version__,
    )
    (part / INFO_FILE).write_text(info.to_json())
    (part / "croissant.json").write_text(json.dumps(croissant(info, part / MANIFEST_FILE), indent=1) + "\n")
    for name in (QUARANTINE_FILE, "croissant.json", INFO_FILE, MANIFEST_FILE):
        publish(part / name, out / name)
    shutil.rmtree(part)
    return Outcome(info, reasons, names)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([row | {"attributes": list(row["attributes"].items())} for row in rows], SCHEMA)


def _counts(states: dict[str, Any]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for shard, state in states.items():
        counts[shard.rpartition("-")[0]] += len(state["rows"])
    return dict(counts)


def _list_rejected(out: Path, plan: Plan, rejected: list[dict[str, str]]) -> Path:
    """The rejected inputs by name: beside the dataset and not in it, for names of files may name patients."""
    names = {item.key: item.record.name for item in plan.items}
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["file", "stage", "reason"])
    table.writerows([names[entry["source"]], entry["stage"], entry["reason"]] for entry in rejected)
    path = out.resolve()
    path = path.with_name(f"{path.name}.rejected.csv")
    part = path.with_name(f".{path.name}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # for its owner alone
        file.write(text.getvalue().encode(errors="surrogateescape"))
    publish(part, path)
    return path


def _top(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
