"""Patients and images that two splits or datasets share."""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa

from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.several import by_split, in_several
from dira_scale.shard.curate.audit.report import AuditFinding
from dira_scale.shard.curate.audit.twins import MIN_CORRELATION, near_twins, thumbnails

__all__ = ["MIN_CORRELATION", "shared_images", "shared_patients"]

GUARDED = ("test", "val")  # evaluation splits: their patients must not be trained on


def shared_patients(datasets: Sequence[ShardedDataset]) -> list[AuditFinding]:
    """Patients, as keyed hashes, in two splits of the first dataset, or in one of it and one of another.

    Hashes are comparable only if key and archive were the same. If that is unknown, shared hashes are still reported,
    as equal 96-bit hashes are no coincidence; but an empty intersection proves nothing.
    """
    people = sorted((number, split) for number, dataset in enumerate(datasets) for split in dataset.splits)

    def columns() -> Iterator[tuple[pa.ChunkedArray, np.ndarray]]:
        for number, dataset in enumerate(datasets):
            groups = [people.index((number, split)) for split in dataset.splits]
            yield from by_split(dataset, "patient", groups)

    several = in_several(columns, sum(len(dataset.index.records) for dataset in datasets))
    findings = []
    for (one, (number, first)), (two, (other_number, other)) in combinations(enumerate(people), 2):
        if number == 0:
            samples = f"{datasets[0].root.name} {first}", f"{datasets[other_number].root.name} {other}"
            harm = harmful(first, other, other_number == 0)
            both = sorted(patient for patient, of in several.items() if one in of and two in of)
            findings += [AuditFinding("shared patient", *samples, "", "", patient, harm) for patient in both]
    return findings


def shared_images(
    datasets: Sequence[ShardedDataset], say: Callable[[str], None], scratch: Path, workers: int
) -> list[AuditFinding]:
    """Pairs with at least one image of the first dataset, except a patient's own images within a split."""
    starts = np.cumsum([0, *(len(dataset.index.records) for dataset in datasets)]).tolist()
    group, groups = np.empty(starts[-1], np.int64), 0  # of one dataset, split and patient
    for dataset, start in zip(datasets, starts, strict=False):
        for rows in map(dataset.rows, dataset.splits):
            group[start + rows] = groups + dataset.patients.codes[rows]
            groups += len(dataset.patients.names)
    found = near_twins(thumbnails(datasets, scratch, workers), group, starts[1], workers, say)
    images = np.unique(np.array([twins[:2] for twins in found], np.int64))
    known: dict[int, tuple[str, str, str]] = {}  # of these images the name of the dataset, the split and the key
    for dataset, start, end in zip(datasets, starts, starts[1:], strict=False):
        mine = images[(images >= start) & (images < end)]
        cells = (row for part in dataset.manifest.at(["split", "key"], mine - start) for row in part.to_pylist())
        known |= {n: (dataset.root.name, *row.values()) for n, row in zip(mine.tolist(), cells, strict=True)}
    findings = []
    for twins in found:
        (name, split, key), (other_name, other_split, other_key) = known[twins.image], known[twins.other]
        samples, how = (f"{name} {split}", f"{other_name} {other_split}"), f"{twins.alike} {twins.how}"
        harm = harmful(split, other_split, name == other_name)
        findings.append(AuditFinding("near-duplicate", *samples, how, key, other_key, harm))
    return findings


def harmful(first: str, other: str, same_dataset: bool) -> bool:
    """Return whether these splits must share nothing: two splits of a dataset, or an evaluation split and another."""
    return (first in GUARDED) != (other in GUARDED) or (same_dataset and first != other)
