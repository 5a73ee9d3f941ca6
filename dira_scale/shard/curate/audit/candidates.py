"""Pairs of images that may show the same: by all pairs of up to ``EXACT`` images, beyond in cells.

All pairs of 10^8 images would take months. There each image lies in one of the cells of k-means, and is compared with
the images of the ``PROBES`` cells that are nearest to each of its four flips.
"""

import tempfile
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dira_scale.base.machine.progress import bar
from dira_scale.shard.curate.balance.clusters import finder
from dira_scale.shard.curate.balance.duplicates import cells_of

EXACT = 10**6  # images; all their pairs take 4.5 hours
COARSE_CORRELATION = 0.75  # minimum
CANDIDATES = 16  # per image that are compared closely
ROWS = 1024  # images per side of a block of pairs
PROBES = 8  # cells
# The parts of a vector are even and odd in y and x: ee, eo, oe, oo. A flip changes the signs of two or none.
FLIPS = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], np.float32)[:, :, None]


class Pairs(NamedTuple):
    """Some images, others, and how they correlate, [n] each."""

    image: np.ndarray
    other: np.ndarray
    score: np.ndarray


def candidates(vectors: np.ndarray, group: np.ndarray, queries: int) -> np.ndarray:
    """Return pairs (image, other), int64 [n, 2], image < other, that correlate by at least ``COARSE_CORRELATION`` under
    any flip, the ``CANDIDATES`` best per image. None is of one ``group`` [N], or of two after the first ``queries``.

    ``vectors``: float32 [N, 4, D], of length 1.
    """
    if len(group) > EXACT:
        return _listed(_in_cells(vectors, group, queries))
    starts = range(0, min(queries, len(group)), ROWS)
    blocks = (_compared(vectors, group, np.arange(n, min(n + ROWS, queries)), n) for n in starts)
    return _listed(_best(Pairs(*(column[block.image < block.other] for column in block))) for block in blocks)


def candidates_of(rows: np.ndarray, vectors: np.ndarray, group: np.ndarray, queries: int) -> np.ndarray:
    """Return the pairs that have one of ``rows``, which are compared with all."""
    blocks = [_compared(vectors, group, rows[n : n + ROWS], 0) for n in range(0, len(rows), ROWS)]
    pairs = np.unique(np.sort(_listed(map(_best, blocks)), axis=1), axis=0)
    return pairs[pairs[:, 0] < queries]


def _compared(vectors: np.ndarray, group: np.ndarray, rows: np.ndarray, first: int) -> Pairs:
    """Compare ``rows`` with all images from the ``first`` on."""
    blocks, mine = [], vectors[rows]
    for start in range(first, len(group), ROWS):
        columns = slice(start, start + ROWS)
        ee, eo, oe, oo = (mine[:, part] @ vectors[columns, part].T for part in range(4))
        # the four flips are ee ± eo ± oe ± oo with an even number of minus signs
        score = np.maximum(ee + eo + np.abs(oe + oo), ee - eo + np.abs(oe - oo))
        blocks.append(_alike(score, rows, np.arange(len(group))[columns], group))
    return _joined(blocks)


def _in_cells(vectors: np.ndarray, group: np.ndarray, queries: int) -> Iterable[Pairs]:
    """Compare within cells. In memory are 24 bytes an image and the pairs, in a file the vectors, cell by cell."""
    points, found = vectors.reshape(len(group), -1), []
    centroids, cell, _ = cells_of(points, seed=0)
    order, find = np.argsort(cell, kind="stable"), finder(centroids)
    starts = np.searchsorted(cell[order], np.arange(len(centroids) + 1))
    with tempfile.TemporaryFile() as file, bar("comparing", "images") as progress:
        task, ordered = progress.add_task("", total=len(order)), np.memmap(file, np.float32, "w+", shape=points.shape)
        blocks = [order[n : n + ROWS] for n in range(0, len(order), ROWS)]
        for n, block in enumerate(blocks):
            ordered[n * ROWS : n * ROWS + len(block)] = points[block]
        for block in blocks:
            rows, pairs = block[block < queries], list[Pairs]()
            for flip in FLIPS if len(rows) else ():
                flipped = (vectors[rows] * flip).reshape(len(rows), -1)
                probed, _ = find(flipped, min(PROBES, len(centroids)))
                by_cell = np.argsort(probed, axis=None, kind="stable")
                cells, first = np.unique(probed.ravel()[by_cell], return_index=True)
                for number, places in zip(cells.tolist(), np.split(by_cell, first[1:]), strict=True):
                    asking = places // probed.shape[1]
                    members = slice(starts[number], starts[number + 1])
                    pairs.append(_alike(flipped[asking] @ ordered[members].T, rows[asking], order[members], group))
            found += [_best(_joined(pairs))] if pairs else []
            progress.advance(task, len(block))
    both = _joined(found)  # a pair may be found from either side
    yield _best(Pairs(np.minimum(*both[:2]), np.maximum(*both[:2]), both.score))


def _alike(score: np.ndarray, rows: np.ndarray, columns: np.ndarray, group: np.ndarray) -> Pairs:
    image, other = np.nonzero(score >= COARSE_CORRELATION)
    pairs = Pairs(rows[image], columns[other], score[image, other])
    counts = (pairs.image != pairs.other) & (group[pairs.image] != group[pairs.other])
    return Pairs(*(column[counts] for column in pairs))


def _joined(parts: Iterable[Pairs]) -> Pairs:
    return Pairs(*map(np.concatenate, zip(*parts, strict=True)))


def _best(pairs: Pairs) -> Pairs:
    """Return the ``CANDIDATES`` best pairs of each image, each once."""
    image, other, score = (column[np.lexsort((-pairs.score, pairs.other, pairs.image))] for column in pairs)
    once = np.flatnonzero((np.diff(image, prepend=-1) != 0) | (np.diff(other, prepend=-1) != 0))
    order = once[np.lexsort((-score[once], image[once]))]
    rank = np.arange(len(order)) - np.searchsorted(image[order], image[order])  # 0 for each image's best
    return Pairs(*(column[order[rank < CANDIDATES]] for column in (image, other, score)))


def _listed(blocks: Iterable[Pairs]) -> np.ndarray:
    return np.concatenate([np.empty((0, 2), np.int64), *(np.stack(block[:2], 1) for block in blocks)])
