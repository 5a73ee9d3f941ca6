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

from dira_scale.base.errors import UserError
from dira_scale.train.data import random
from dira_scale.words.config import Words
from dira_scale.words.origin import OFFSETS, SplitVolumes, highest_corner, references

CORNERS, SIZES = 110, 111  # streams of random numbers
MOST_DRAWS = 2**16  # of a zoomed crop, until it lies in its volume

Read = Callable[[int, Sequence[int], Sequence[int]], np.ndarray]  # of a train volume: corner and size -> its voxels


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
    result: list[Word] = []
    for reference in order_of_references(words, train):
        distances = [np.linalg.norm(d.astype(np.float64) - descriptors[0][reference], axis=1) for d in descriptors]
        nearest = [np.argsort(distance, kind="stable") for distance in distances]  # of equal ones the manifest's first
        nearest[0][:] = [reference, *nearest[0][nearest[0] != reference]]
        if word := _in_reference(words, result, reference, (train, val), nearest, read):
            result.append(word)
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


def _in_reference(
    words: Words,
    before: Sequence[Word],
    reference: int,
    splits: tuple[SplitVolumes, SplitVolumes],
    nearest: Sequence[np.ndarray],
    read: Read,
) -> Word | None:
    """The word of the first corner that is suitable; None if none is."""
    others = np.array([word.corner for word in before]).reshape(-1, words.dimensions)
    wanted = words.neighbours.train, words.neighbours.val
    for corner in corners(words, len(before), splits[0], reference):
        if (np.linalg.norm(others - corner, axis=1) < words.distance).any():
            continue
        chosen = [
            _one_per_patient(ranked[volumes.hold(corner, words.size)[ranked]], volumes)[:count]
            for volumes, ranked, count in zip(splits, nearest, wanted, strict=True)
        ]
        if any(len(volumes) < count for volumes, count in zip(chosen, wanted, strict=True)):
            continue
        place, size = tuple(map(int, corner)), (words.size[0] + OFFSETS - 1, *words.size[1:])
        if words.air.hu is not None and dense(read(reference, place, size), words.air.hu) > words.air.share:
            continue
        return Word(reference, place, *chosen)
    return None


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
