"""Statistics of a dataset, from its manifest and a sample of its images."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dira_scale.base.errors import counted, printable
from dira_scale.base.storage.store import open_file
from dira_scale.dataset.manifest import QUARANTINE, QUARANTINE_FILE, DatasetError, ShardedDataset
from dira_scale.dataset.manifest.schema import POSITION, SLICE

LOOKED_AT, SHOWN = 200, 48  # images decoded for the histogram of intensities, and shown
FEW = 16
REJECTED = 0.05  # share of inputs in quarantine beyond which the reasons need a look


@dataclass(frozen=True)
class SplitStats:
    """One line of the table of splits."""

    name: str
    samples: int
    patients: int
    studies: int
    megabytes: float
    masks: int
    boxes: int


@dataclass(frozen=True)
class LabelStats:
    """Counts of a label's values in a split: 0 and 1, CheXpert's -1 (uncertain), grades, classes; and of unknown."""

    name: str
    split: str
    values: dict[float, int]
    unknown: int
    graded: bool  # some split has values other than -1, 0 and 1, or these are classes
    classes: tuple[str, ...] = ()  # their names

    @property
    def positive(self) -> int:
        return self.values.get(1, 0)

    @property
    def known(self) -> int:
        return sum(self.values.values())

    def __str__(self) -> str:
        """``254 of 704 (36.1 %)``; for grades and classes, the count of each."""
        texts = []
        for value, count in [*self.values.items()][:10]:
            named = 0 <= value < len(self.classes) and value == int(value)
            texts.append(f"{self.classes[int(value)] if named else f'{value:g}'}: {count}")
        if not self.graded and self.known:
            texts = [f"{self.positive} of {self.known} ({self.positive / self.known:.1%})".replace("%", " %")]
            texts += [f"{self.values[-1]} uncertain"] if -1 in self.values else []
        elif len(self.values) > 10:
            texts.append("…")
        return ", ".join([*texts, *([f"{self.unknown} unknown"] if self.unknown else [])])


class Stats:
    """Statistics of a dataset, computed lazily. ``seed`` selects the sampled images."""

    def __init__(self, dataset: ShardedDataset, seed: int = 0):
        self.dataset, self.info, self.seed = dataset, dataset.info, seed

    @cached_property
    def splits(self) -> list[SplitStats]:
        records, dataset = self.dataset.index.records, self.dataset
        counts = [pc.list_value_length(batch["boxes"]) for batch in dataset.manifest.batches(["boxes"])]
        boxes = np.concatenate([np.empty(0, np.int32), *(pc.fill_null(count, 0).to_numpy() for count in counts)])
        return [
            SplitStats(
                name=name,
                samples=len(rows),
                patients=_distinct(dataset.patients.codes[rows]),
                studies=_distinct(dataset.studies.codes[rows]),
                megabytes=sum(int(np.maximum(records[size][rows], 0).sum()) for size in ("size", "mask_size")) / 1e6,
                masks=int(dataset.has_mask(rows).sum()),
                boxes=int(boxes[rows].sum()),
            )
            for name in self.info.counts
            for rows in [dataset.rows(name)]
        ]

    @cached_property
    def labels(self) -> dict[str, list[LabelStats]]:
        """By label name, one per split."""
        rows = {split: self.dataset.rows(split) for split in self.info.counts}
        result: dict[str, list[LabelStats]] = {}
        for number, name in enumerate(self.info.label_names):
            column = self.dataset.index.records["labels"][:, number]
            classes = tuple(self.info.classes.get(name, ()))
            graded = bool(classes or set(np.unique(column[~np.isnan(column)])) - {-1, 0, 1})
            result[name] = []
            for split, numbers in rows.items():
                labels = column[numbers]
                distinct, counts = np.unique(labels[~np.isnan(labels)], return_counts=True)
                values = dict(zip(distinct.tolist(), counts.tolist(), strict=True))
                unknown = len(labels) - sum(values.values())
                result[name].append(LabelStats(name, split, values, unknown, graded, classes))
        return result

    @cached_property
    def shared_patients(self) -> int:
        """Number of patients in more than one split; must be 0."""
        return sum(split.patients for split in self.splits) - _distinct(self.dataset.patients.codes)

    @cached_property
    def copies(self) -> int:
        """Number of images that are exact copies of an earlier one."""
        return len(self.dataset.checksums) - _distinct(self.dataset.checksums)

    @cached_property
    def lacking(self) -> dict[str, int]:
        """By channel the number of samples without it, of those that some lack."""
        if not self.info.channels:
            return {}
        counts = np.isnan(self.dataset.column("low")).sum(0).tolist()
        return {name: count for name, count in zip(self.info.channels, counts, strict=True) if count}

    @cached_property
    def attributes(self) -> dict[str, list[tuple[str, int]]]:
        """Counts of each attribute's values, most frequent first; ages by decade. Not a slice's place in its volume."""
        parts = []
        for batch in self.dataset.manifest.batches(["attributes"]):
            maps = batch["attributes"].combine_chunks()
            pairs = pa.table({"name": maps.keys, "value": maps.items})
            pairs = pairs.filter(pc.invert(pc.is_in(pairs["name"], pa.array([SLICE, POSITION]))))
            counts = pairs.group_by(["name", "value"]).aggregate([([], "count_all")])
            parts.append(counts.rename_columns(["name", "value", "count"]))
        if not parts:
            return {}
        total = pa.concat_tables(parts).group_by(["name", "value"], use_threads=False).aggregate([("count", "sum")])
        result: dict[str, Counter[str]] = {}
        for name, value, count in zip(*(total[c].to_pylist() for c in ("name", "value", "count_sum")), strict=True):
            text = f"{int(value) // 10 * 10}s" if name == "age" and value.isdecimal() else value
            result.setdefault(name, Counter())[text] += count
        return {
            name: sorted(values.items()) if name == "age" else values.most_common() for name, values in result.items()
        }

    @cached_property
    def quarantine(self) -> list[tuple[str, str, int]]:
        """Stage, reason and count of rejected inputs, most frequent first."""
        path, counts = self.dataset.root / QUARANTINE_FILE, Counter[tuple[str, str]]()
        try:
            with open_file(path) as file:
                for batch in pq.ParquetFile(file).iter_batches(columns=QUARANTINE.names):
                    texts = pa.Table.from_batches([batch]).cast(QUARANTINE).select(["stage", "reason"])
                    columns = ([printable((text or "")[:1000]) for text in column.to_pylist()] for column in texts)
                    counts.update(zip(*columns, strict=True))  # printable: a dataset is untrusted
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DatasetError(f"{path} cannot be read ({type(error).__name__}): copy it again") from error
        return [(stage, reason, count) for (stage, reason), count in counts.most_common()]

    def sides(self) -> dict[str, np.ndarray]:
        """Stored pixels, or voxels, per side, by axis."""
        axes = ("depth", "height", "width") if self.info.dims == 3 else ("height", "width")
        return {axis: self.dataset.column(axis) for axis in axes}

    def spacings(self) -> dict[str, np.ndarray]:
        """Millimetres per pixel by axis, of the samples that have it."""
        spacing = self.dataset.spacing
        present = ~np.isnan(spacing).any(1)
        axes = ("z", "y", "x") if self.info.dims == 3 else ("y", "x")
        return {axis: spacing[present, number] for number, axis in enumerate(axes)} if present.any() else {}

    def drawn(self, count: int) -> np.ndarray:
        """Up to ``count`` random row numbers, in manifest order."""
        rows = len(self.dataset.index.records)
        return np.sort(np.random.default_rng(self.seed).choice(rows, min(count, rows), replace=False))

    @cached_property
    def _looked_at(self) -> tuple[np.ndarray, int]:
        total, plain = np.zeros(64, np.int64), 0
        for row in self.drawn(LOOKED_AT):
            picture = self.dataset.picture(int(row))
            total += np.histogram(picture, 64, (0, 1))[0]
            plain += len(np.unique(picture)) <= FEW
        return total, plain

    @property
    def intensities(self) -> np.ndarray:
        """int64 [64]: histogram of values from 0 to 1 over ``LOOKED_AT`` images."""
        return self._looked_at[0]

    @property
    def plain(self) -> int:
        """The number of sampled images with so few distinct values that they look like masks."""
        return self._looked_at[1]


def _distinct(numbers: np.ndarray) -> int:
    """Count the distinct values, without the codes of rows that have none, which are negative."""
    return len(np.unique(numbers[numbers >= 0]))


def oddities(stats: Stats) -> list[str]:
    """Return what to check before training on the dataset."""
    texts: list[str] = []
    shares: dict[str, Any] = {split.name: split.samples for split in stats.splits}
    inputs = sum(shares.values()) + stats.info.quarantined
    if stats.info.quarantined > REJECTED * inputs:
        texts.append(f"{stats.info.quarantined} of {counted(inputs, 'input')} quarantined")
    texts += _by_splits(stats, "never 1 in", lambda label: label.known and not label.graded and not label.positive)
    texts += _by_splits(stats, "unknown in all of", lambda label: label.unknown and not label.known)
    if stats.shared_patients:
        texts.append(f"in more than one split: {counted(stats.shared_patients, 'patient')}")
    for name, count in stats.lacking.items():
        texts.append(f"channel {name} is lacking in {count} of {counted(sum(shares.values()), 'sample')}")
    if stats.plain:
        texts.append(f"{stats.plain} of {len(stats.drawn(LOOKED_AT))} sampled images have at most {FEW} distinct "
                    "values: masks among the images?")  # fmt: skip
    if stats.copies:
        texts.append(f"exact copies of others: {counted(stats.copies, 'image')} (shard audit names them)")
    return texts


def _by_splits(stats: Stats, what: str, is_odd: Callable[[LabelStats], object]) -> list[str]:
    """A line for each set of splits in which labels are odd: ``what``, the splits, the names of these labels."""
    result: dict[str, list[str]] = {}
    for name, labels in stats.labels.items():
        if splits := ", ".join(label.split for label in labels if is_odd(label)):
            result.setdefault(splits, []).append(name)
    return [f"{what} {splits}: label{'s' * (len(names) > 1)} {', '.join(names)}" for splits, names in result.items()]
