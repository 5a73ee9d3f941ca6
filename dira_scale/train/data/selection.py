"""Select rows of a split by patient, label, fraction and seed. Every rule of the package is here, but for those of
``shard.curate.subset``, and labels' shares (``stratification.py``).

    nested_draws    of a probe: several draws of a share of the patients
    select          what an order trains on: that share, without excluded patients, with so many negatives

Patients stay whole, and with one seed a smaller fraction is a subset of a larger one. A split that is only evaluated is
always whole.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from xxhash import xxh3_128_hexdigest

from dira_scale.base.arguments import UNSHOWN, ArgumentError
from dira_scale.base.errors import DatasetError
from dira_scale.train.data.mapped import Mapped, Write, chunks, mapped_once
from dira_scale.train.data.stratification import in_drawn_order, stratified

if TYPE_CHECKING:  # an order is made where no shards are, hence no pyarrow
    import pyarrow as pa

    from dira_scale.dataset.manifest import ShardedDataset


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


@dataclass(frozen=True, eq=False)
class Selection:
    """The samples that an order covers, in parts that it mixes.

    Attributes:
        samples: int64, part after part, each ascending; counted over the whole splits of all datasets, which have
            ``split_size``.
        sizes, weights: of the parts; as of an order's datasets.
        file: that has them all, and the identity; None: they are in memory.
    """

    samples: np.ndarray
    split_size: int
    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    file: Mapped | None = None

    @classmethod
    def of(cls, file: Mapped) -> "Selection":
        facts = file.facts
        return cls(file["samples"], facts["split_size"], tuple(facts["sizes"]), tuple(facts["weights"]), file)

    def __reduce__(self) -> tuple[Any, ...]:  # another process maps the file, too
        every = self.samples, self.split_size, self.sizes, self.weights
        return (Selection, every) if self.file is None else (Selection.of, (self.file,))

    @cached_property
    def identity(self) -> str:
        """Return a hash of what is selected: a dataset's hash does not tell its patients and labels."""
        known = self.file and self.file.facts["identity"]
        return known or _identity(self.sizes, self.split_size, self.samples)

    def find(self, samples: np.ndarray) -> np.ndarray:
        """Return the place in ``self.samples`` of each of ``samples`` [n], int64; -1: it is not selected."""
        places, first = np.full(len(samples), -1), 0
        for size in self.sizes:
            part = self.samples[first : first + size]
            place = np.minimum(np.searchsorted(part, samples), size - 1)
            places = np.where(part[place] == samples, first + place, places)
            first += size
        return places


def select(
    datasets: Sequence["ShardedDataset"],
    split: str,
    weights: Sequence[float],
    fraction: float,
    seed: int,
    negatives: int | None,
    from_end: bool = False,
    excluded: "pa.Array | None" = None,
) -> Selection | None:
    """Return the samples of the ``split`` of each dataset that are left; None if these are all.

    ``fraction`` is of the patients that are not ``excluded``, and ``seed`` draws it (:func:`stratified`).

    With ``negatives`` a dataset has two parts: its positives, and as many slots of negatives for each of theirs. A
    positive is a sample of which any label of yes and no is above 0; unknown and uncertain are none, nor are numbers
    (``ShardedDataset.number_labels``).

    One process of a node looks at all patients and samples: others map what it has found.

    Raises ArgumentError, naming the dataset, where there are no positives or negatives, a label is lost, or nobody is
    left; DatasetError where there are no labels.
    """
    if fraction == 1 and negatives is None and excluded is None:
        return None
    keys = None if excluded is None else [xxh3_128_hexdigest(part or b"") for part in excluded.buffers()[1:]]
    of = [[each.identity for each in datasets], split, [*weights], fraction, seed, negatives, from_end, keys]

    def make(write: Write) -> dict[str, Any]:
        parts: list[tuple[int, np.ndarray]] = []  # the first sample of a dataset, and which of its are chosen
        shares: list[float] = []
        first = 0
        for dataset, weight in zip(datasets, weights, strict=True):
            chosen = _Chosen(dataset, split)
            if excluded is not None:
                chosen.keep(~dataset.patients_in(excluded))
                if not chosen.mask.any():
                    expected = f"to leave somebody: {dataset.root} has no other patient in split '{split}'"
                    raise ArgumentError("excluded", UNSHOWN, expected)
            if fraction < 1:
                chosen.draw(fraction, seed, from_end)
            if negatives is None:
                parts.append((first, chosen.mask))
                shares.append(weight)
            else:
                where = f"split '{split}'" + f" at a fraction of {fraction:g}" * (fraction < 1)
                has, others = chosen.by_label(where, negatives)
                count = max(1, round(weight * int(has.sum())))
                parts += [(first, has), (first, others)]
                shares += [count / int(has.sum()), negatives * count / int(others.sum())]
            first += len(chosen.mask)
        sizes = [int(mask.sum()) for _, mask in parts]
        if fraction == 1 and negatives is None and sum(sizes) == first:
            return {}  # nobody excluded is here
        places = ((at + part.start, mask[part]) for at, mask in parts for part in chunks(len(mask)))
        identity = _identity(sizes, first, write("samples", (at + np.flatnonzero(mask) for at, mask in places)))
        return {"split_size": first, "sizes": sizes, "weights": shares, "identity": identity}

    made = mapped_once("selection", of, 8 * sum(len(dataset.rows(split)) for dataset in datasets), make)
    return Selection.of(made) if made.facts else None


class _Chosen:
    """Which samples of a dataset's split are chosen: ``mask``, bool [n]."""

    def __init__(self, dataset: "ShardedDataset", split: str) -> None:
        self.dataset, self.rows, names = dataset, dataset.rows(split), dataset.info.label_names
        self.mask, flags = np.ones(len(self.rows), bool), dataset.info.flags
        self.flags = [n for n, flag in enumerate(flags) if names[flag.number] not in dataset.number_labels]

    def keep(self, patients: np.ndarray) -> None:
        """Choose none of other patients than these, bool [P]."""
        for part in chunks(len(self.rows)):
            self.mask[part] &= patients[self.dataset.patients.codes[self.rows[part]]]

    def draw(self, fraction: float, seed: int, from_end: bool) -> None:
        """Keep a fraction of the patients (:func:`stratified`)."""
        codes, names = self.dataset.patients
        present, positive = np.zeros(len(names), bool), np.zeros((len(names), len(self.flags) // 8 + 1), np.uint8)
        for part in chunks(len(self.rows)):
            rows = self.rows[part][self.mask[part]]
            present[codes[rows]] = True
            for number, has in enumerate((self.dataset.flags(rows)[:, self.flags] > 0).T):
                positive[codes[rows[has]], number // 8] |= 128 >> number % 8
        order = in_drawn_order(names.array(), present, seed)
        labels = [self.dataset.info.flags[number].name for number in self.flags]
        kept = np.zeros(len(names), bool)
        kept[order[stratified(positive[order], labels, fraction, from_end)]] = True
        self.keep(kept)

    def by_label(self, where: str, negatives: int) -> tuple[np.ndarray, np.ndarray]:
        """Return masks of those with and without a positive label. Raises as :func:`select`."""
        # Labels of classes do not count: none is the others' negative.
        columns = [number for number in self.flags if self.dataset.info.flags[number].value is None]
        if not columns:
            raise DatasetError(f"{self.dataset.root} has no labels, by which negatives are told", lacks="labels")
        has, others = self.mask.copy(), self.mask.copy()
        for part in chunks(len(self.rows)):
            positive = (self.dataset.flags(self.rows[part])[:, columns] > 0).any(1)
            has[part] &= positive
            others[part] &= ~positive
        if not has.any() or not others.any():
            missing = "negative (a sample without a positive label)" if has.any() else "positive"
            expected = f"null, or another dataset: {self.dataset.root} has no {missing} in {where}"
            raise ArgumentError("negatives", negatives, expected)
        return has, others


def _identity(sizes: Sequence[int], split_size: int, samples: np.ndarray) -> str:
    digest = hashlib.sha256(f"{tuple(sizes)} {split_size}".encode())
    digest.update(np.ascontiguousarray(samples).data)
    return digest.hexdigest()
