"""The volumes or images that words are searched in: what is known of them without a look at their voxels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dira_scale.base.config.border import at
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.index import SIDES
from dira_scale.train.data.selection import Selection, select
from dira_scale.words.config import Words

OFFSETS = 3  # slices at and above a voxel that the air filter looks at; so many more must a reference have


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
        if (count := _patients(volumes, usable)) < wanted:
            raise UserError(f"{key}={wanted}: split '{split}' of {root} has {count} patients with {words.kind}s that "
                            f"hold a word{too_small(dataset, volumes, ~usable, words)}")  # fmt: skip
    usable = references(train, words)
    if (count := _patients(train, usable)) < words.words:
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
    first = int(np.flatnonzero(small)[0])
    sides = " x ".join(map(str, volumes.sides[first]))
    key = dataset.cell("key", int(volumes.rows[first]))
    count = int(small.sum())
    are = "is" if count == 1 else "are"
    return f", as {count} of its {len(small)} {words.kind}s {are} too small, such as {key} ({sides})"


def _patients(volumes: SplitVolumes, which: np.ndarray) -> int:
    return len(np.unique(volumes.patients[which]))
