"""Select rows of a split by patient, label, fraction and seed. Every rule of the package is here.

    fraction_of_samples   of a subset: patients in a drawn order, up to a share of the samples
    fold_of               of a subset: patients dealt out
    nested_draws          of a probe: several draws of a share of the patients
    stratified            a share of the patients in which every label keeps its share
    select                what an order trains on: that share, without excluded patients, with so many negatives

Patients stay whole, and with one seed a smaller fraction is a subset of a larger one. A split that is only evaluated is
always whole.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dira_scale.base.arguments import UNSHOWN, ArgumentError
from dira_scale.base.errors import DatasetError

if TYPE_CHECKING:  # an order is made where no shards are, hence no pyarrow
    from dira_scale.dataset.manifest import ShardedDataset


def drawn(patients: Sequence[str], seed: int) -> list[str]:
    """Return the distinct patients in a random order determined only by their names and ``seed``."""
    return sorted(set(patients), key=lambda patient: hashlib.sha256(f"{seed} {patient}".encode()).digest())


def fraction_of_samples(patients: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return a mask of the first ``drawn`` of ``patients`` [n] that together have ``fraction`` of the samples."""
    samples = Counter(patients.tolist())
    chosen, count = set(), 0
    for patient in drawn(list(samples), seed):
        if count >= fraction * len(patients):
            break
        chosen.add(patient)
        count += samples[patient]
    return np.isin(patients, list(chosen))


def fold_of(patients: np.ndarray, folds: int, fold: int, seed: int) -> np.ndarray:
    """Return a mask of the samples whose patients are in ``fold``: every ``folds``-th one in the order ``drawn``."""
    return np.isin(patients, drawn(patients.tolist(), seed)[fold::folds])


def nested_draws(
    patients: np.ndarray, fractions: Sequence[float], draws: int, seed: int
) -> dict[float, list[np.ndarray]]:
    """For each fraction, ``draws`` sets of image indices: all images of a share of the ``patients`` [n].

    A draw's patients at a smaller fraction are a subset of those at a larger one. Fraction 1 has a single draw.
    """
    unique, member = np.unique(patients, return_inverse=True)
    sets: dict[float, list[np.ndarray]] = {fraction: [] for fraction in fractions}
    for draw in range(draws):
        rank = np.empty(len(unique), np.int64)
        rank[np.random.default_rng([seed, draw]).permutation(len(unique))] = np.arange(len(unique))
        for fraction in fractions:
            if fraction < 1 or draw == 0:
                sets[fraction].append(np.flatnonzero(rank[member] < max(1, round(fraction * len(unique)))))
    return sets


def stratified(
    patients: np.ndarray, positive: np.ndarray, names: Sequence[str], fraction: float, seed: int, from_end: bool = False
) -> np.ndarray:
    """Return a mask of a share of the ``patients`` [n], in which every label has its share of positive patients.

    ``positive``: bool [n, S], one column for each of ``names``: a label, or a class of a label of classes. A patient is
    positive if a sample is. A label that has a positive keeps one, however rare it is.

    With ``from_end`` the patients that a fraction from the start leaves: a from the start and b from the end share none
    if a + b <= 1, unless there are so few patients that one of the shares rounds to nobody, as either has one at least.
    Of a very rare label they may have no positive, as the start has those first.

    Raises ArgumentError, which names a label, if the fraction from the start is too small to keep a positive.
    """
    order = drawn(patients.tolist(), seed)
    rank = {patient: i for i, patient in enumerate(order)}
    member = np.array([rank[patient] for patient in patients.tolist()])
    of_patient = np.zeros((len(order), positive.shape[1]), bool)
    np.logical_or.at(of_patient, member, positive)
    if from_end:
        before = round(round(1 - fraction, 9) * len(order))  # 1 - 0.9 is not quite 0.1, which rounds another way
        return ~np.isin(member, _balanced(of_patient, min(max(1, before), len(order) - 1)))
    count = max(1, round(fraction * len(order)))
    balanced = _balanced(of_patient, count)
    if lost := np.flatnonzero(of_patient.any(0) & ~of_patient[balanced].any(0)).tolist():
        seen = np.maximum.accumulate(of_patient[_balanced(of_patient, min(len(order), len(names)))])
        enough = 1 + int(np.flatnonzero((seen == of_patient.any(0)).all(1))[0])
        raise ArgumentError(
            "fraction", fraction, f"{math.ceil(1e4 * enough / len(order)) / 1e4:g} or more: {count} of {len(order)} "
            f"patients cannot have a positive of every label: '{names[lost[0]]}' would have none"
        )  # fmt: skip
    return np.isin(member, balanced)


def _balanced(positive: np.ndarray, count: int) -> np.ndarray:
    """Return the first ``count`` rows of ``positive`` [P, S] in an order whose every beginning has all columns' shares.

    It begins with rows that together have every column: each time one that adds most. Then each row is the one after
    which the columns' counts are nearest to their shares, by the sum of squares; rows without any positive count as a
    column, too. That is iterative stratification (Sechidis et al., "On the stratification of multi-label data", ECML
    PKDD 2011), of beginnings instead of folds. Among equal rows the first is taken. Counts stay within about one row.
    """
    columns = np.concatenate([positive, ~positive.any(1, keepdims=True)], 1)
    alike, first, member, size = np.unique(columns, axis=0, return_index=True, return_inverse=True, return_counts=True)
    if len(alike) == 1:  # without labels
        return np.arange(count)
    queues = np.argsort(member, kind="stable")  # group after group of rows that are alike
    start, taken = np.cumsum(size) - size, np.zeros_like(size)
    # Whole numbers, so exact, in floats, whose products are fast: counts times the number of rows.
    groups, total, held = alike.astype(float), columns.sum(0).astype(float), np.zeros(columns.shape[1])
    missing, chosen = positive.any(0), np.empty(count, np.int64)
    for i in range(count):
        adds = alike[:, :-1][:, missing].sum(1)
        left = taken < size
        group = np.flatnonzero(left & (adds == adds[left].max()))
        over = held * len(columns) - (i + 1) * total
        cost = groups[group] @ (2 * over + len(columns))
        group = group[cost == cost.min()]
        behind = (i + 1) * size[group] - len(columns) * taken[group]
        group = group[behind == behind.max()]
        best = group[np.argmin(first[group])]
        chosen[i] = queues[start[best] + taken[best]]
        taken[best] += 1
        held += groups[best]
        missing &= ~alike[best, :-1]
    return chosen


@dataclass(frozen=True, eq=False)
class Selection:
    """The samples that an order covers, in parts that it mixes.

    Attributes:
        samples: int64, part after part; counted over the whole splits of all datasets, which have ``split_size``.
        sizes, weights: of the parts; as of an order's datasets.
    """

    samples: np.ndarray
    split_size: int
    sizes: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def identity(self) -> str:
        """Return a hash of what is selected: a dataset's hash does not tell its patients and labels."""
        return hashlib.sha256(f"{self.sizes} {self.split_size}".encode() + self.samples.tobytes()).hexdigest()


def select(
    datasets: Sequence["ShardedDataset"],
    split: str,
    weights: Sequence[float],
    fraction: float,
    seed: int,
    negatives: int | None,
    from_end: bool = False,
    excluded: Collection[str] = (),
) -> Selection | None:
    """Return the samples of the ``split`` of each dataset that are left; None if these are all.

    ``fraction`` is of the patients that are not ``excluded``, and ``seed`` draws it (:func:`stratified`).

    With ``negatives`` a dataset has two parts: its positives, and as many slots of negatives for each of theirs. A
    positive is a sample of which any label of yes and no is above 0; unknown and uncertain are none, nor are numbers
    (``ShardedDataset.number_labels``).

    Raises ArgumentError, naming the dataset, where there are no positives or negatives, a label is lost, or nobody is
    left; DatasetError where there are no labels.
    """
    if fraction == 1 and negatives is None and not excluded:
        return None
    parts: list[np.ndarray] = []
    shares: list[float] = []
    first = 0
    for dataset, weight in zip(datasets, weights, strict=True):
        rows, names = dataset.rows(split), dataset.info.label_names
        kept = [n for n, f in enumerate(dataset.info.flags) if names[f.number] not in dataset.number_labels]
        flags = [dataset.info.flags[number] for number in kept]
        positive, chosen = dataset.flags(rows)[:, kept] > 0, np.arange(len(rows))
        if excluded:
            chosen = np.flatnonzero([patient not in excluded for patient in dataset.column("patient")[rows]])
            if not len(chosen):
                expected = f"to leave somebody: {dataset.root} has no other patient in split '{split}'"
                raise ArgumentError("excluded", UNSHOWN, expected)
        if fraction < 1:
            patients = dataset.column("patient")[rows[chosen]]
            chosen = chosen[stratified(patients, positive[chosen], [f.name for f in flags], fraction, seed, from_end)]
        if negatives is None:
            parts.append(first + chosen)
            shares.append(weight)
        else:
            # Labels of classes do not count: none is the others' negative.
            positive = positive[:, [number for number, flag in enumerate(flags) if flag.value is None]]
            where = f"split '{split}'" + f" at a fraction of {fraction:g}" * (fraction < 1)
            has = _with_positives(dataset, where, positive[chosen], negatives)
            count = max(1, round(weight * int(has.sum())))
            parts += [first + chosen[has], first + chosen[~has]]
            shares += [count / int(has.sum()), negatives * count / int((~has).sum())]
        first += len(rows)
    samples = np.concatenate(parts)
    if fraction == 1 and negatives is None and len(samples) == first:
        return None  # nobody excluded is here
    return Selection(samples, first, tuple(map(len, parts)), tuple(shares))


def _with_positives(dataset: "ShardedDataset", where: str, positive: np.ndarray, negatives: int) -> np.ndarray:
    """Return a mask of the positive samples."""
    has = np.asarray(positive.any(1))
    if not positive.shape[1]:
        raise DatasetError(f"{dataset.root} has no labels, by which negatives are told", lacks="labels")
    if not has.any() or has.all():
        missing = "negative (a sample without a positive label)" if has.any() else "positive"
        expected = f"null, or another dataset: {dataset.root} has no {missing} in {where}"
        raise ArgumentError("negatives", negatives, expected)
    return has
