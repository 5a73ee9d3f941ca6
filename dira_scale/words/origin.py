"""The volumes that words are searched in: what is known of them without a look at their voxels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.manifest.index import SIDES
from dira_scale.errors import UserError
from dira_scale.words.config import Words

OFFSETS = 3  # slices at and above a voxel that the air filter looks at; so many more must a reference have


@dataclass(frozen=True)
class Volumes:
    """The volumes of one split, in the manifest's order; the numbers below are positions in it.

    Attributes:
        rows: of the manifest, int64 [n].
        sides: depth, height, width, int64 [n, 3].
        patients: a number of each volume's patient, int64 [n].
    """

    rows: np.ndarray
    sides: np.ndarray
    patients: np.ndarray

    @classmethod
    def of(cls, dataset: ShardedDataset, split: str) -> "Volumes":
        rows = dataset.rows(split)
        sides = np.stack([dataset.column(name)[rows] for name in SIDES[3]], 1).astype(np.int64)
        patients = np.unique(dataset.column("patient")[rows].astype(str), return_inverse=True)[1]
        return cls(rows, sides, patients)

    def hold(self, corner: Sequence[int] | np.ndarray, size: Sequence[int]) -> np.ndarray:
        """Whether a cube of ``size`` at ``corner`` lies within each volume, bool [n]."""
        return np.asarray((np.asarray(corner) + np.asarray(size) <= self.sides).all(1))


def highest_corner(sides: np.ndarray, words: Words) -> np.ndarray:
    """The last corner (z, y, x) that a word may have in references of these ``sides``, [..., 3]."""
    return np.asarray(sides - np.array(words.size) - [OFFSETS, 0, 0] - 1 - np.array(words.margin))


def open_origin(words: Words) -> tuple[ShardedDataset, Volumes, Volumes]:
    """The dataset, and its volumes for training and validation.

    Raises UserError naming the key if it cannot have these words: images, a split that is missing, several channels,
    not CT, too few patients whose volumes are large enough.
    """
    dataset = ShardedDataset.open(words.data.shards)
    dataset.require(3, "the search for words")
    root, counts = dataset.root, dataset.info.counts
    for key in ("split", "val_split"):
        if not counts.get(split := getattr(words.data, key)):
            raise UserError(
                f"data.{key}={split}: {root} has no volume there, only {', '.join(counts)}: words need patients for "
                "training and others for validation; name its splits, or shard again with recipe.splits"
            )
        if {kind.channels for kind in dataset.kinds(split)} != {1}:
            raise UserError(f"data.shards={root} has volumes of several channels: words are cut out of volumes of one")
    if words.data.split == words.data.val_split:
        raise UserError(f"data.val_split={words.data.val_split} is data.split too: name two splits")
    if dataset.info.modality != "CT" and words.air.hu is not None:
        raise UserError(
            f"data.shards={root} holds {dataset.info.modality}, which has no Hounsfield units: add air.hu=null to "
            "search without the filter of air"
        )
    train, val = (Volumes.of(dataset, split) for split in (words.data.split, words.data.val_split))
    for volumes, split, wanted, key in (
        (train, words.data.split, words.neighbours.train, "neighbours.train"),
        (val, words.data.val_split, words.neighbours.val, "neighbours.val"),
    ):
        usable = volumes.hold(words.margin, words.size)
        if (count := _patients(volumes, usable)) < wanted:
            raise UserError(f"{key}={wanted}: split '{split}' of {root} has {count} patients with volumes that hold a "
                            f"cube{too_small(dataset, volumes, ~usable)}")  # fmt: skip
    usable = references(train, words)
    if (count := _patients(train, usable)) < words.words:
        raise UserError(
            f"words={words.words}: each needs a reference of its own, and split '{words.data.split}' of {root} has "
            f"{count} patients with volumes that hold a cube and its margins{too_small(dataset, train, ~usable)}: "
            "lower words or margin"
        )
    return dataset, train, val


def references(train: Volumes, words: Words) -> np.ndarray:
    """Which volumes can be references, bool [n]."""
    return np.asarray((highest_corner(train.sides, words) >= np.array(words.margin)).all(1))


def too_small(dataset: ShardedDataset, volumes: Volumes, small: np.ndarray) -> str:
    """``, as 3 of 20 are too small, such as KEY (30 x 512 x 512)``; empty if none is."""
    if not small.any():
        return ""
    first = int(np.flatnonzero(small)[0])
    sides = " x ".join(map(str, volumes.sides[first]))
    key = dataset.cell("key", int(volumes.rows[first]))
    count = int(small.sum())
    return (
        f", as {count} of its {len(small)} volumes {'is' if count == 1 else 'are'} too small, such as {key} ({sides})"
    )


def _patients(volumes: Volumes, which: np.ndarray) -> int:
    return len(np.unique(volumes.patients[which]))
