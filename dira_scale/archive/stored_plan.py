"""A plan on disk or in a store, by shard: who writes some of the shards reads these, and lists nothing.

``.partial/plan/000000.parquet`` has a row group for each of the first ``BLOCK`` shards, and so on; what is common to
all is in ``.partial/plan.json``, which comes last. All of it is read as a stranger's: as data, and no path outside of
what the recipe names is opened.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from dira_scale.archive import as_data
from dira_scale.archive.claim import check_begun, read_begun
from dira_scale.archive.deidentify import Hasher
from dira_scale.archive.output import PARTIAL, PLAN_FILE
from dira_scale.archive.plan import Item, MadePlan, ShardPlan, item_of, shards_of
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import publish, write_json
from dira_scale.base.storage.store import as_os_error, is_local, locate
from dira_scale.base.storage.text import brief
from dira_scale.base.storage.walk import LinkResolver
from dira_scale.dataset.manifest.checks import SPLIT

FOLDER, BLOCK = "plan", 64  # shards in a file, so that its footer and the number of files are small
AGAIN = "delete the folder `.partial`, and run `shard list` again"
SCHEMA = pa.schema([(name, pa.string()) for name in ("key", "patient", "modality", "record")])


class StoredFacts(NamedTuple):
    """What is common to all shards."""

    counts: dict[str, int]  # inputs of each split
    shard_size: int
    label_names: tuple[str, ...]
    classes: dict[str, tuple[str, ...]]
    channels: tuple[str, ...]
    links: tuple[str, ...]  # in the recipe's folders, that lead out of them


class Bounds:
    """Where a recipe's inputs may be: in the folders that it names, and in those that ``links`` there lead to."""

    def __init__(self, recipe: Recipe, links: Iterable[str]):
        self._roots = {f"{str(folder).rstrip('/')}/" for folder in recipe.folders()}
        self._beside = set[str]()  # what links to files there lead to
        led = [Path(os.path.realpath(link)) for link in map(_normal, links) if self._holds(link)]
        self._beside |= {str(place.parent) for place in led if place.is_file()}
        self._roots |= {f"{place}/" for place in led if place.is_dir()}
        self._notation = as_data.Notation(self._inside, self._located, recipe.source_module)

    def _holds(self, path: str) -> bool:
        return any(f"{path}/".startswith(root) for root in self._roots) or path.rpartition("/")[0] in self._beside

    def _inside(self, path: Path) -> str:
        """Return the path as it is kept."""
        if not self._holds(text := _normal(path)):
            raise ValueError(f"{text} is not in a folder that the recipe names, nor where a link there leads to")
        return text

    def _located(self, text: str) -> Path:
        path = locate(text, "recipe.images")
        if self._inside(path) != text or ".." in text.split("/"):
            raise ValueError(f"{text} is no path that a source lists")
        return path

    def text(self, record: SourceRecord) -> str:
        """The record, written. Raises UserError for one that cannot be kept, or is of a file that is elsewhere."""
        try:
            return as_data.write(record, self._notation)
        except ValueError as error:
            if record.rejected is not None:  # its file is not read
                return self.text(replace(record, image=Path(min(self._roots)), mask=None))
            raise UserError(f"{error}, so no plan can keep it: shard without `shard list`") from error

    def record(self, text: str) -> SourceRecord:
        """What :meth:`text` has written. Raises ValueError for anything else."""
        record: SourceRecord = as_data.read(SourceRecord, text, self._notation)
        for path in getattr(record.image, "paths", ()):
            self._located(str(path))
        return record


def _normal(path: Path | str) -> str:
    return os.path.abspath(path) if is_local(locate(path, "recipe.images")) else str(path)  # noqa: PTH100


def store_plan(
    out: Path, plan: MadePlan, recipe: Recipe, identity: dict[str, Any], links: LinkResolver, scratch: Path
) -> None:
    """Keep a plan in ``out``, which is held, by way of ``scratch``. Raises as :meth:`Bounds.text`; OSError."""
    led, shards, counts = tuple(map(str, links.elsewhere)), list(plan.shards), Counter[str]()
    bounds, folder, part = Bounds(recipe, led), out / PARTIAL / FOLDER, scratch / "plan.parquet"
    if is_local(out):
        folder.mkdir(exist_ok=True)
    for first in range(0, len(shards), BLOCK):
        with pq.ParquetWriter(part, SCHEMA, compression="zstd", write_page_checksum=True) as file:
            for shard in shards[first : first + BLOCK]:
                items = plan.items(shard)
                rows = [(i.key, i.patient, i.record.modality, bounds.text(i.record)) for i in items]
                columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
                file.write_table(pa.table(columns, schema=SCHEMA), row_group_size=len(items))
                counts[items[0].split] += len(items)
        publish(part, folder / f"{first // BLOCK:06d}.parquet")
    classes = {label: tuple(names) for label, names in plan.classes.items()}
    facts = StoredFacts(dict(counts), plan.shard_size, plan.label_names, classes, plan.channels, led)
    stored = as_data.write(facts, as_data.NO_PATHS)
    write_json(out / PARTIAL / PLAN_FILE, {"recipe": identity, "plan": plan.hash, "stored": stored})


class StoredPlan(ShardPlan):
    """A plan that is read a shard at a time. Raises UserError for what :func:`store_plan` has not written."""

    def __init__(self, out: Path, digest: str, facts: StoredFacts, bounds: Bounds, hasher: Hasher):
        self._folder, self._bounds, self._hasher, self.hash = out / PARTIAL / FOLDER, bounds, hasher, digest
        with as_os_error(out):
            there = {path.name for path in self._folder.iterdir()} if self._folder.exists() else set()
        known = facts.shard_size > 0 and all(SPLIT.fullmatch(s) and count > 0 for s, count in facts.counts.items())
        if not known or sum(-(-count // facts.shard_size) for count in facts.counts.values()) > BLOCK * len(there):
            raise UserError(f"{self._folder} lacks parts of the plan: {AGAIN}")
        shards = shards_of(facts.counts, facts.shard_size)
        super().__init__(shards, facts.shard_size, facts.label_names, facts.classes, facts.channels)
        self._numbers = {shard: number for number, shard in enumerate(shards)}

    def items(self, shard: str) -> list[Item]:
        split, expected = shard.rpartition("-")[0], len(self.shards[shard])
        with self._rows(shard, ["key", "patient", "record"]) as rows:
            items = [
                item_of(self._hasher, self._bounds.record(row["record"]), row["key"], row["patient"], split)
                for row in rows
            ]
            if len(items) != expected or any(self._hasher("key", i.record.name) != i.key for i in items):
                raise ValueError("other inputs, or of another key")
            return items

    def modalities(self) -> Iterator[tuple[str, str | None]]:
        for shard in self.shards:
            with self._rows(shard, ["key", "modality"]) as rows:
                yield from [(row["key"], row["modality"]) for row in rows]

    @contextmanager
    def _rows(self, shard: str, columns: list[str]) -> Iterator[list[dict[str, Any]]]:
        block, group = divmod(self._numbers[shard], BLOCK)
        with as_data.opened(self._folder / f"{block:06d}.parquet", AGAIN) as file:
            known = file.schema_arrow == SCHEMA and group < file.num_row_groups
            if not known or file.metadata.row_group(group).num_rows != len(self.shards[shard]):
                raise ValueError("other columns or shards")
            yield file.read_row_group(group, columns).to_pylist()


def stored_plan(out: Path, recipe: Recipe, identity: dict[str, Any], hasher: Hasher) -> StoredPlan | None:
    """The plan that :func:`store_plan` has kept in ``out``, if there is one. Raises UserError for another recipe's."""
    begun = read_begun(out)
    if begun is None or "stored" not in begun:
        return None
    check_begun(out, begun["recipe"], identity)
    try:
        facts = as_data.read(StoredFacts, begun["stored"], as_data.NO_PATHS)
        return StoredPlan(out, begun["plan"], facts, Bounds(recipe, facts.links), hasher)
    except ValueError as error:
        raise UserError(f"{out / PARTIAL / PLAN_FILE}: {brief(str(error))}: {AGAIN}") from error
