"""The plan: which image goes to which position of which shard, decided before any image is decoded.

The plan is on disk: ten million records need no more memory than ten thousand.
"""

import hashlib
import json
import pickle
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Any, Protocol

from dira_scale.archive.deidentify import Hasher, coarse
from dira_scale.archive.recipe import Recipe, channels_of, classes_of
from dira_scale.archive.sources.base import Source, SourceRecord
from dira_scale.archive.sources.split_lists import listed_patients
from dira_scale.archive.splits import draw_splits, samples_a_shard
from dira_scale.base.config.border import at
from dira_scale.base.errors import UserError

# SQLite's unnamed temporary file: it disappears with the process, however it ends.
UNNAMED = ""
TABLES = """
    PRAGMA journal_mode = OFF;
    PRAGMA cache_size = -8000;  -- kB
    CREATE TABLE record (number INTEGER PRIMARY KEY, content BLOB);
    -- study: a hash to group by. alone: the patient if none is known. drawn: takes part in splitting
    CREATE TABLE item (
        number INTEGER PRIMARY KEY, key TEXT, patient TEXT, study TEXT, alone TEXT, hint TEXT, drawn INT, split TEXT
    );
    CREATE TABLE place (position INTEGER PRIMARY KEY, number INT);
"""
# The patient of an image without one: the only patient named in its study, else the study counts as one patient.
NAME_PATIENTS = """
    CREATE TEMP TABLE known AS
        SELECT study, min(patient) AS patient FROM item WHERE patient IS NOT NULL AND study IS NOT NULL
        GROUP BY study HAVING count(DISTINCT patient) = 1;
    CREATE INDEX known_study ON known (study);
    UPDATE item SET patient = coalesce((SELECT patient FROM known WHERE known.study = item.study), alone)
        WHERE patient IS NULL;
    DROP TABLE known;
"""


@dataclass(frozen=True)
class Item:
    """A record with its hashes and split."""

    key: str
    patient: str
    study: str
    split: str
    record: SourceRecord


def slice_key(key: str, index: int) -> str:
    """The key of a slice of the volume with this key."""
    return f"{key}-{index:04d}"


def input_of(key: str) -> tuple[str, str]:
    """The key of a sample's input, and which slice of it the sample is ("" if it is all of it)."""
    start, _, index = key.partition("-")
    return start, str(int(index)) if index else ""


class PlannedShards(Protocol):
    """The inputs of each shard: what writing, claiming and finishing a dataset need to know."""

    @property
    def shards(self) -> Mapping[str, Sized]:
        """File name -> one entry per item."""

    @property
    def label_names(self) -> tuple[str, ...]: ...

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the samples' channels, each with a range of its own; empty: one range for all."""

    @property
    def hash(self) -> str:
        """Identity of everything planned."""

    def items(self, shard: str) -> list[Any]:
        """The items of one shard; picklable."""


class ShardPlan(ABC):
    """All items in manifest order; iterable, shard by shard.

    Attributes:
        shards: file name -> positions of its items in the plan.
        label_names: names of the labels.
        classes: the class names of each label that is the number of a class.
        channels: the names of the channels, each with a range of its own.
        shard_size: samples of a shard.
        hash: identity of everything planned; changes if the source does. It is published with the dataset, so it
            covers names only as keyed hashes, and no paths of this machine.
    """

    hash: str

    def __init__(
        self,
        shards: dict[str, range],
        shard_size: int,
        label_names: Sequence[str],
        classes: Mapping[str, Sequence[str]],
        channels: Sequence[str],
    ):
        self.shard_size = shard_size
        self.shards, self.label_names, self.channels = shards, tuple(label_names), tuple(channels)
        self.classes = {label: list(names) for label, names in classes.items()}

    @abstractmethod
    def items(self, shard: str) -> list[Item]:
        """The items of one shard."""

    def __len__(self) -> int:
        return sum(map(len, self.shards.values()))

    def __iter__(self) -> Iterator[Item]:
        return chain.from_iterable(map(self.items, self.shards))

    def modalities(self) -> Iterator[tuple[str, str | None]]:
        """Yield the key and the modality of each input, as its header names it."""
        return ((item.key, item.record.modality) for item in self)


class MadePlan(ShardPlan):
    """A plan just made from a source's records, in a temporary table."""

    def __init__(self, table: sqlite3.Connection, hasher: Hasher, shards: dict[str, range], *about: Any):
        super().__init__(shards, *about)
        self._table, self._hasher = table, hasher
        digest = hashlib.sha256(json.dumps(self.label_names).encode())
        if self.classes:
            digest.update(json.dumps(self.classes).encode())
        if self.channels:
            digest.update(json.dumps(self.channels).encode())
        for item in self:
            r = item.record
            content = [r.labels, r.boxes, coarse(r.attributes), r.mask is not None, r.size, r.rejected]
            digest.update(json.dumps([item.key, item.patient, item.study, item.split, *content]).encode())
        self.hash = digest.hexdigest()

    def items(self, shard: str) -> list[Item]:
        rows = self._table.execute(
            "SELECT key, patient, split, content FROM place JOIN item USING (number) JOIN record USING (number) "
            "WHERE position >= ? AND position < ? ORDER BY position",
            [self.shards[shard].start, self.shards[shard].stop],
        )
        return [item_of(self._hasher, pickle.loads(content), *row) for *row, content in rows]

    def differences(self, keys: Iterable[str]) -> tuple[int, int]:
        """Return how many planned inputs are not among ``keys``, and how many of ``keys`` are not planned."""
        self._table.execute("CREATE TEMP TABLE other (key TEXT PRIMARY KEY) WITHOUT ROWID")
        self._table.executemany("INSERT OR IGNORE INTO other VALUES (?)", ([key] for key in keys))
        counts = (
            self._table.execute(f"SELECT count(*) FROM {one} WHERE key NOT IN (SELECT key FROM {two})").fetchone()[0]
            for one, two in (("item", "other"), ("other", "item"))
        )
        added, removed = counts
        return added, removed


def item_of(hasher: Hasher, record: SourceRecord, key: str, patient: str, split: str) -> Item:
    """An item; its study includes the patient, as some archives number each patient's studies from 1."""
    return Item(key, patient, hasher("study", f"{patient} {record.study or record.name}"), split, record)


def plan_shards(
    records: Iterable[SourceRecord],
    recipe: Recipe,
    hasher: Hasher,
    label_names: Sequence[str] = (),
    classes: Mapping[str, Sequence[str]] = MappingProxyType({}),
    channels: Sequence[str] = (),
) -> MadePlan:
    """Hash, split and order the records; samples of a split are sorted by key, hence shuffled.

    Only records that are not rejected take part in splitting; rejected ones are put in the first split.

    Raises:
        UserError: no records, or a duplicate name; a patient in two splits; a value of the split column that is not
            in ``recipe.official``; a split name unusable in file names; no disk space for the plan.
    """
    table = sqlite3.connect(UNNAMED)
    try:
        table.executescript(TABLES)
        listed = _fill(table, records, hasher)
        table.executescript(NAME_PATIENTS)
        size = samples_a_shard(recipe.shard_size, *listed)
        splits = draw_splits(table, recipe, hasher)
        return MadePlan(table, hasher, _order(table, splits, size), size, label_names, classes, channels)
    except sqlite3.OperationalError as error:
        raise UserError(
            f"the plan cannot be written to the temporary folder ({error}): free space, or set TMPDIR"
        ) from error


def _fill(table: sqlite3.Connection, records: Iterable[SourceRecord], hasher: Hasher) -> tuple[int, float]:
    """Return the number of records, and the mean bytes of those whose size is known."""
    number, known, size = -1, 0, 0
    for number, r in enumerate(records):
        patient = hasher("patient", r.patient) if r.patient else None
        study = hasher("study", r.study) if r.study else None
        alone = hasher("patient", f"study {r.study}" if r.study else f"image {r.name}")
        row = number, hasher("key", r.name), patient, study, alone, r.split, r.rejected is None
        table.execute("INSERT INTO item VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", row)
        known, size = known + bool(r.size), size + (r.size or 0)
        table.execute("INSERT INTO record VALUES (?, ?)", (number, pickle.dumps(r, pickle.HIGHEST_PROTOCOL)))
    if number < 0:
        raise UserError(
            "the source lists no files: recipe.images must name a folder that holds some, at any depth, "
            "which a table of labels must name"
        )
    try:
        table.execute("CREATE UNIQUE INDEX item_key ON item (key)")
    except sqlite3.IntegrityError as error:
        ((content,),) = table.execute(
            "SELECT content FROM record WHERE number = "
            "(SELECT number FROM item GROUP BY key HAVING count(*) > 1 ORDER BY number LIMIT 1)"
        )
        name = pickle.loads(content).name
        raise UserError(f"the source names two files {name}: every image needs a name of its own") from error
    return number + 1, size / max(1, known)


def _order(table: sqlite3.Connection, splits: Sequence[str], shard_size: int) -> dict[str, range]:
    """Fill the table ``place``; the positions of each shard, split by split."""
    table.execute("UPDATE item SET split = ? WHERE NOT drawn", [splits[0]])
    table.execute("CREATE INDEX item_split ON item (split, key)")
    counts, start = dict[str, int](), 0
    for split in splits:
        counts[split] = table.execute(
            "INSERT INTO place SELECT ? + row_number() OVER (ORDER BY key), number FROM item WHERE split = ?",
            [start - 1, split],
        ).rowcount
        start += counts[split]
    return shards_of(counts, shard_size)


def shards_of(counts: Mapping[str, int], shard_size: int) -> dict[str, range]:
    """The positions of each shard, split by split, with the ``counts`` of their items."""
    shards, start = dict[str, range](), 0
    for split, count in counts.items():
        for shard, first in enumerate(range(start, start + count, shard_size)):
            shards[f"{split}-{shard:06d}.tar"] = range(first, min(first + shard_size, start + count))
        start += count
    return shards


def planned_from(
    source: Source, recipe: Recipe, hasher: Hasher, workers: int, parts: Iterable[Any] | None = None
) -> MadePlan:
    """Return the plan for all images that the recipe's source lists, from ``parts`` if tasks have inspected its files.
    Raises UserError."""
    if parts is not None:
        source.parts = parts  # type: ignore[attr-defined]
    try:
        about = source.label_names, classes_of(source), channels_of(source)
        with at("recipe"):
            records, splits = source.records(workers), recipe.split_of_patients
            if splits is not None:
                records = listed_patients(records, splits)
            return plan_shards(records, recipe, hasher, *about)
    except OSError as error:
        raise UserError(f"listing the images failed ({error}): fix this, then run the same command again") from error
