"""Find patients in more than one split of a dataset, or of two datasets (pretraining against test)."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import pyarrow.compute as pc

from dira_scale.data.manifest import ShardedDataset

GUARDED = ("test", "val")  # evaluation splits: their patients must not be trained on


def harmful(first: str, other: str, same_dataset: bool) -> bool:
    """Whether sharing between these splits is harmful: two splits of a dataset, or an evaluation split and another."""
    return (first in GUARDED) != (other in GUARDED) or (same_dataset and first != other)


class SharedPatients(NamedTuple):
    """Patients (keyed hashes) in two splits; ``harm``: they must not be."""

    splits: tuple[str, str]  # "NAME split"
    patients: tuple[str, ...]
    harm: bool
    listed: bool = False  # the published lists that the dataset was made with have it so


class PatientComparison(NamedTuple):
    """The shared patients, and the pairs of datasets that cannot be compared."""

    shared: list[SharedPatients]
    not_comparable: list[str]


def shared_patients(datasets: Sequence[ShardedDataset]) -> PatientComparison:
    """Compare the first dataset with itself and with each of the others.

    Hashes are comparable only if key and archive were the same. If that is unknown, shared hashes are still reported,
    as equal 96-bit hashes are no coincidence; but an empty intersection proves nothing.
    """
    people = [
        {
            split: set(dataset.table.filter(pc.equal(dataset.table["split"], split))["patient"].unique().to_pylist())
            for split in dataset.splits
        }
        for dataset in datasets
    ]
    names = [dataset.root.name for dataset in datasets]
    pairs = [((0, first), (0, other)) for first, other in combinations(people[0], 2)]
    pairs += [((0, first), (n, other)) for n in range(1, len(datasets)) for first in people[0] for other in people[n]]
    shared = []
    for (n, first), (m, other) in pairs:
        if both := people[n][first] & people[m][other]:
            splits = f"{names[n]} {first}", f"{names[m]} {other}"
            listed = n == m and bool(datasets[n].info.published_lists)
            shared.append(SharedPatients(splits, tuple(sorted(both)), harmful(first, other, n == m), listed))
    unknown = [f"{names[0]} and {names[n]}: {why}" for n in range(1, len(datasets))
               if (why := datasets[0].info.incomparable(datasets[n].info))]  # fmt: skip
    return PatientComparison(shared, unknown)
