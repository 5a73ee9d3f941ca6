"""A tree of clusters by hierarchical k-means with resampling (Vo et al., "Automatic Data Curation for Self-Supervised
Learning: A Clustering-Based Approach", TMLR 2024, section 3).

    points of level 1: the images' embeddings; of level t: the centroids of level t - 1
    for each level:
        cluster all points by k-means
        ``rounds`` times: take of each cluster the points closest to its centroid, half as many as a mean cluster has;
            cluster these alone, and give every point to the nearest of the new centroids

Dense places attract many centroids of plain k-means; resampled, the centroids spread over all places where images are.
At most fifty updates of centroids, and the half, are those of the authors' code.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pkgutil import resolve_name

import numpy as np
from scipy.sparse import csr_array

from dira_scale.base.machine.hardware import gpus

TORCH = "dira_scale.judge.evaluation.nearest"  # named, not imported: archives are sharded without torch
on_gpu = cache(lambda: bool(gpus()[0] and find_spec("torch")) and resolve_name(f"{TORCH}:torch.cuda.is_available")())

UPDATES, SETTLED = 50, 1e-4  # of centroids at most; by which share the objective must fall for another one
STARTS = 16  # points a centroid, among which k-means++ chooses: it goes through all of them for each centroid
SPREAD = 2**14  # centroids from which they start at random instead: of 100,000, k-means++ would take days
NUMBERS = 2**24  # distances that are computed, or values that are read, at once


def tree(points: np.ndarray, counts: Sequence[int], rounds: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return of each point its cluster on each level, int32 [n] each, and the centroids of the last level, [k, d].

    ``points``: [n, d]; may be mapped from a file. ``counts``: of clusters, from the finest level on.
    """
    levels: list[np.ndarray] = []
    centroids = points
    for number, count in enumerate(counts):
        centroids, cluster = resampled(centroids, count, rounds, np.random.default_rng([seed, number]))
        levels.append(cluster[levels[-1]] if levels else cluster)
    return levels, centroids


def resampled(points: np.ndarray, k: int, rounds: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return centroids [k, d] of one level, and of each point the nearest one, int32 [n]."""
    centroids = k_means(points, np.arange(len(points)), k, rng)
    cluster, distance = nearest(points, centroids)
    for _ in range(rounds):
        order = np.lexsort((distance, cluster))
        place = np.arange(len(order)) - np.searchsorted(cluster[order], np.arange(k))[cluster[order]]
        centroids = k_means(points, np.sort(order[place < max(1, len(points) // (2 * k))]), k, rng)
        cluster, distance = nearest(points, centroids)
    return centroids, cluster


def k_means(points: np.ndarray, rows: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Return centroids, float32 [k, d], of these ``rows`` of the points, by Lloyd's algorithm from a start of k-means++
    in a sample of them, of more than ``SPREAD`` from random ones."""
    some = np.sort(rng.choice(rows, min(len(rows), STARTS * k if k <= SPREAD else k), replace=False))
    start = np.asarray(points[some], np.float32)
    centroids, before = _spread(start, k, rng) if k <= SPREAD else start, np.inf
    for _ in range(UPDATES):
        sums, counts, objective = np.zeros(centroids.shape), np.zeros(k, np.int64), 0.0
        for batch, cluster, distance in _batches(points, rows, centroids):
            members = csr_array((np.ones(len(batch), np.float32), cluster, np.arange(len(batch) + 1)), (len(batch), k))
            sums += members.T @ batch
            counts += np.bincount(cluster, minlength=k)
            objective += float(distance.sum())
        if objective >= (1 - SETTLED) * before:
            break
        before, known = objective, counts > 0  # an empty one stays where it is
        centroids[known] = sums[known] / counts[known, None]
    return centroids


def nearest(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return of each point the nearest centroid, int32 [n], and the squared distance, float32 [n]."""
    parts = [(cluster, distance) for _, cluster, distance in _batches(points, np.arange(len(points)), centroids)]
    cluster, distance = (np.concatenate(part) for part in zip(*parts, strict=True))
    return cluster, distance


def squared_distances(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return those of points [b, d] to centroids [k, d]: float32 [b, k]."""
    lengths, others = (np.einsum("ij,ij->i", values, values) for values in (points, centroids))
    return np.maximum(lengths[:, None] + others - 2 * (points @ centroids.T), 0)


def _batches(
    points: np.ndarray, rows: np.ndarray, centroids: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the points of ``rows``, their nearest centroids and the squared distances."""
    size, find = max(1, NUMBERS // max(centroids.shape)), finder(centroids)
    for first in range(0, len(rows), size):
        batch = np.asarray(points[rows[first : first + size]], np.float32)
        cluster, distance = find(batch, 1)
        yield batch, cluster[:, 0], distance[:, 0]


def finder(centroids: np.ndarray) -> Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]:
    """Return a function of points [b, d] and a number p: the p nearest of the ``centroids`` [k, d] to each, int32
    [b, p], in any order, and the squared distances, float32 [b, p]. It computes on a GPU where there is one."""
    if on_gpu():
        return resolve_name(f"{TORCH}:finder")(centroids)

    def find(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        squared = squared_distances(points, centroids)
        number = squared.argmin(1)[:, None] if count == 1 else np.argpartition(squared, count - 1, 1)[:, :count]
        return number.astype(np.int32), np.take_along_axis(squared, number, 1)

    return find


def _spread(points: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Return k of the points by k-means++ (Arthur and Vassilvitskii, SODA 2007): each drawn by its squared distance to
    the nearest before it."""
    chosen = [int(rng.integers(len(points)))]
    lengths, distance = np.einsum("ij,ij->i", points, points), np.full(len(points), np.inf, np.float32)
    for _ in range(k - 1):
        last = chosen[-1]
        distance = np.minimum(distance, np.maximum(lengths + lengths[last] - 2 * (points @ points[last]), 0))
        ends = np.cumsum(distance, dtype=np.float64)
        chosen.append(min(int(np.searchsorted(ends, rng.random() * ends[-1], side="right")), len(points) - 1))
    return points[chosen]
