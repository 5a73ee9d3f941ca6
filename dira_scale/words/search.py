"""The search for visual words (TransVW; Haghighi et al., "Transferable Visual Words", IEEE TMI 2021).

Volumes and cubes stand for images and patches, too, which have one axis less and are not filtered.

    for each word:
        take a reference that was not taken before, and rank patients by the distance of their descriptors to its own
        draw corners within its margins, until one is far from those of other words, is in a region of lung and air,
            and lies within enough of the nearest patients' volumes; after ``trials`` of them take another reference
        its cubes are those of the nearest patients at the same indices

Every random number is keyed by seed, word and volume: none depends on the order of the search.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dira_scale.base.config.border import at
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.index import SIDES
from dira_scale.train.data import random
from dira_scale.train.data.selection import Selection, select
from dira_scale.words.config import Words

OFFSETS = 3  # slices at and above a voxel that the air filter looks at; so many more must a reference have
CORNERS, SIZES = 110, 111  # streams of random numbers
MOST_DRAWS = 2**16  # of a zoomed crop, until it lies in its volume

Read = Callable[[int, Sequence[int], Sequence[int]], np.ndarray]  # of a train volume: corner and size -> its voxels


@dataclass(frozen=True)
class SplitVolumes:
    """The volumes of one split that are ``selected``, in the manifest's order; the numbers below count through them.

    Attributes:
        samples: positions in the split, int64 [n].
        rows: of the manifest, int64 [n].
        sides: depth, height, width; of images height, width: int64 [n, axes].
        patients: a number of each volume's patient, int64 [n].
    """

    samples: np.ndarray
    rows: np.ndarray
    sides: np.ndarray
    patients: np.ndarray

    @classmethod
    def of(cls, dataset: ShardedDataset, split: str, selected: Selection | None = None) -> "SplitVolumes":
        samples = selected.samples if selected else np.arange(dataset.info.counts[split])
        rows = dataset.rows(split)[samples]
        sides = np.stack([dataset.column(name)[rows] for name in SIDES[dataset.info.dims]], 1).astype(np.int64)
        patients = np.unique(dataset.column("patient")[rows].astype(str), return_inverse=True)[1]
        return cls(samples, rows, sides, patients)

    def hold(self, corner: Sequence[int] | np.ndarray, size: Sequence[int]) -> np.ndarray:
        """Return whether a cube of ``size`` at ``corner`` lies within each volume, bool [n]."""
        return np.asarray((np.asarray(corner) + np.asarray(size) <= self.sides).all(1))


def highest_corner(sides: np.ndarray, words: Words) -> np.ndarray:
    """The last corner that a word may have in references of these ``sides``, [..., axes]."""
    above = [OFFSETS, 0, 0][-words.dimensions :]
    return np.asarray(sides - np.array(words.size) - above - 1 - np.array(words.margin))


def open_origin(words: Words) -> tuple[ShardedDataset, SplitVolumes, SplitVolumes]:
    """The dataset, and its volumes for training and validation.

    Raises UserError naming the key if it cannot have these words: images instead of volumes, a split that is missing,
    several channels, not CT, too few patients whose volumes are large enough.
    """
    dataset = ShardedDataset.open(words.data.shards)
    dataset.require(words.dimensions, f"the search for words of size={[*words.size]}")
    root, counts = dataset.root, dataset.info.counts
    for key in ("split", "val_split"):
        if not counts.get(split := getattr(words.data, key)):
            raise UserError(
                f"data.{key}={split}: {root} has no {words.kind} there, only {', '.join(counts)}: words need patients "
                "for training and others for validation; name its splits, or shard again with recipe.splits"
            )
        if {kind.channels for kind in dataset.kinds(split)} != {1}:
            raise UserError(
                f"data.shards={root} has {words.kind}s of several channels: words are cut out of those of one"
            )
    if words.data.split == words.data.val_split:
        raise UserError(f"data.val_split={words.data.val_split} is data.split too: name two splits")
    if dataset.info.modality != "CT" and words.air.hu is not None:
        raise UserError(
            f"data.shards={root} holds {dataset.info.modality}, which has no Hounsfield units: add air.hu=null to "
            "search without the filter of air"
        )
    with at("data"):
        part = select([dataset], words.data.split, [1.0], words.data.fraction, words.data.fraction_seed, None)
    train, val = SplitVolumes.of(dataset, words.data.split, part), SplitVolumes.of(dataset, words.data.val_split)
    for volumes, split, wanted, key in (
        (train, words.data.split, words.neighbours.train, "neighbours.train"),
        (val, words.data.val_split, words.neighbours.val, "neighbours.val"),
    ):
        usable = volumes.hold(words.margin, words.size)
        if (count := len(_one_per_patient(np.flatnonzero(usable), volumes))) < wanted:
            raise UserError(f"{key}={wanted}: split '{split}' of {root} has {count} patients with {words.kind}s that "
                            f"hold a word{too_small(dataset, volumes, ~usable, words)}")  # fmt: skip
    usable = references(train, words)
    if (count := len(_one_per_patient(np.flatnonzero(usable), train))) < words.words:
        raise UserError(
            f"words={words.words}: each needs a reference of its own, and split '{words.data.split}' of {root} has "
            f"{count} patients with {words.kind}s that hold a word and its margins"
            f"{too_small(dataset, train, ~usable, words)}: lower words or margin"
        )
    return dataset, train, val


def references(train: SplitVolumes, words: Words) -> np.ndarray:
    """Return which volumes can be references, bool [n]."""
    return np.asarray((highest_corner(train.sides, words) >= np.array(words.margin)).all(1))


def too_small(dataset: ShardedDataset, volumes: SplitVolumes, small: np.ndarray, words: Words) -> str:
    """``, as 3 of 20 are too small, such as KEY (30 x 512 x 512)``; empty if none is."""
    if not small.any():
        return ""
    first, count = int(np.flatnonzero(small)[0]), int(small.sum())
    sides, are = " x ".join(map(str, volumes.sides[first])), "is" if count == 1 else "are"
    key = dataset.cell("key", int(volumes.rows[first]))
    return f", as {count} of its {len(small)} {words.kind}s {are} too small, such as {key} ({sides})"


@dataclass(frozen=True)
class Word:
    """Attributes:
    reference: number of its volume among those for training.
    corner: z, y, x; of images y, x.
    train, val: numbers of the nearest patients' volumes, the nearest first.
    """

    reference: int
    corner: tuple[int, ...]
    train: np.ndarray
    val: np.ndarray


def search(
    words: Words, train: SplitVolumes, val: SplitVolumes, descriptors: tuple[np.ndarray, np.ndarray], read: Read
) -> list[Word]:
    """``words.words`` words. ``descriptors``: of both splits, float [n, channels].

    Raises UserError if no reference is left before all are there.
    """
    result, wanted = list[Word](), (words.neighbours.train, words.neighbours.val)
    size = words.size[0] + OFFSETS - 1, *words.size[1:]  # that the air filter looks at
    for reference in order_of_references(words, train):
        distances = [np.linalg.norm(d.astype(np.float64) - descriptors[0][reference], axis=1) for d in descriptors]
        nearest = [np.argsort(distance, kind="stable") for distance in distances]  # of equal ones the manifest's first
        nearest[0][:] = [reference, *nearest[0][nearest[0] != reference]]
        others = np.array([word.corner for word in result]).reshape(-1, words.dimensions)
        for corner in corners(words, len(result), train, reference):
            if (np.linalg.norm(others - corner, axis=1) < words.distance).any():
                continue
            chosen = [
                _one_per_patient(ranked[volumes.hold(corner, words.size)[ranked]], volumes)[:count]
                for volumes, ranked, count in zip((train, val), nearest, wanted, strict=True)
            ]
            if any(len(volumes) < count for volumes, count in zip(chosen, wanted, strict=True)):
                continue
            place = tuple(map(int, corner))
            if words.air.hu is not None and dense(read(reference, place, size), words.air.hu) > words.air.share:
                continue
            result.append(Word(reference, place, *chosen))
            break
        if len(result) == words.words:
            return result
    raise UserError(
        f"words={words.words}: only {len(result)} were found in all references, {words.trials} trials in each: lower "
        "words, distance or margin, or raise trials or air.share"
    )


def order_of_references(words: Words, train: SplitVolumes) -> list[int]:
    """Return of each patient one volume that can be a reference, in an order drawn from the seed."""
    count = len(train.rows)
    order = random.permute(np.arange(count), count, random.key("references", words.seed))
    return [int(volume) for volume in _one_per_patient(order[references(train, words)[order]], train)]


def corners(words: Words, word: int, train: SplitVolumes, reference: int) -> np.ndarray:
    """The corners that are tried for a word in a reference, int64 [trials, axes]."""
    index, axes = np.full(words.trials, train.rows[reference]), words.dimensions
    u = random.uniform(words.seed, word, index, np.arange(words.trials), view=0, n=axes, stream=CORNERS)
    return random.integers(u, np.array(words.margin), highest_corner(train.sides[reference], words))


def dense(voxels: np.ndarray, hu: float) -> float:
    """The share of a cube that is neither lung nor air. ``voxels`` [D + 2, H, W]: with the two slices above it.

    A voxel counts 1 if it has at least ``hu``, a half if only the voxel above it has, else 0.
    """
    above = voxels >= hu
    first, second = above[: 1 - OFFSETS], above[1 : 2 - OFFSETS]
    return float(np.where(first, 1.0, np.where(second, 0.5, 0.0)).mean())


def boxes(
    words: Words, word: int, corner: Sequence[int], volumes: SplitVolumes, chosen: np.ndarray, number: int
) -> np.ndarray:
    """The box (z, y, x, d, h, w; of images y, x, h, w) of a word in each ``chosen`` volume, int64 [n, 2 axes].
    ``number`` 0: of ``size``; from 1: zoomed ones, drawn again until they lie in the volume."""
    result = np.tile([*corner, *words.size], (len(chosen), 1)).astype(np.int64)
    todo, draw, axes = np.arange(len(chosen)), 0, words.dimensions
    while number and len(todo):
        if draw == MOST_DRAWS:
            raise UserError(
                f"zoomed.jitter={list(words.zoomed.jitter)}: hardly any crop that far lies in the {words.kind} with "
                f"zoomed.sides={list(words.zoomed.sides)}; choose smaller ones"
            )
        rows, occurrence = volumes.rows[chosen[todo]], np.full(len(todo), draw)
        u = random.uniform(words.seed, word, rows, occurrence, view=number, n=3, stream=SIZES)
        side = random.integers(u[:, 0], *words.zoomed.sides)
        start = random.integers(u[:, 1:], *words.zoomed.jitter) + np.array(corner[-2:])
        result[todo, axes - 2 : axes], result[todo, -2:] = start, side[:, None]
        inside = (start >= 0) & (start + side[:, None] <= volumes.sides[chosen[todo], -2:])
        todo, draw = todo[~inside.all(1)], draw + 1
    return result


def _one_per_patient(order: np.ndarray, volumes: SplitVolumes) -> np.ndarray:
    """Return the first volume of each patient in ``order``, as ordered."""
    first = np.unique(volumes.patients[order], return_index=True)[1]
    return np.asarray(order[np.sort(first)])
