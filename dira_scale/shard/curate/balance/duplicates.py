"""Near-duplicates: images whose embeddings have a cosine similarity above a threshold, of which one is kept.

No pair is missed, and few are compared. Images are divided into the cells of some centroids. Those of two cells lie on
the two sides of the plane midway between the cells' centroids, so both of a pair that is nearer than g are within g of
that plane; others are never multiplied. Cell after cell, an image is dropped if one that was kept before is near it:
every dropped image is near a kept one, and no two kept ones are near each other.
"""

import math

import numpy as np

from dira_scale.base.machine.progress import bar
from dira_scale.shard.curate.balance.clusters import k_means, nearest, squared_distances

CELL, SAMPLED = 1000, 64  # images of a cell, on average; by how many a centroid is found
TOGETHER, AGAINST = 1024, 8192  # images that are compared with so many at once
SLACK = 1e-3  # for rounding


def near_duplicates(points: np.ndarray, threshold: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return of each of the ``points``, float32 [n, d] of length 1, the kept one that it is a near-duplicate of, int64
    [n], itself if it is kept, and the cosine similarity to it, float32 [n]."""
    centroids, cell, distance = cells_of(points, seed)
    count = len(centroids)
    reach = 2 * (math.sqrt(2 - 2 * threshold) + SLACK)
    kept, cosine = np.arange(len(points)), np.ones(len(points), np.float32)
    left = np.split(np.argsort(cell, kind="stable"), np.cumsum(np.bincount(cell, minlength=count))[:-1])
    with bar("comparing", "images") as progress:
        task = progress.add_task("", total=len(points))
        for here, members in enumerate(left):
            apart = np.sqrt(squared_distances(centroids[here, None], centroids)[0])
            left[here] = members[:0]
            for rows in np.split(members, range(TOGETHER, len(members), TOGETHER)):
                mine = points[rows]
                # From the plane a point is (a² - b²) / 2c away: a, b to the two centroids, c between these.
                beyond = squared_distances(mine, centroids[: here + 1]) - distance[rows, None]
                cells = np.flatnonzero((beyond <= reach * apart[: here + 1] + SLACK).any(0))
                others = np.concatenate([left[number] for number in cells] or [members[:0]])
                for against in np.split(others, range(AGAINST, len(others), AGAINST)):
                    beyond = squared_distances(points[against], centroids[here, None])[:, 0] - distance[against]
                    against = against[beyond <= reach * apart[cell[against]] + SLACK]
                    if not len(against):
                        continue
                    alike = mine @ points[against].T
                    best = alike.argmax(1)
                    most = alike[np.arange(len(rows)), best]
                    better = (most >= threshold) & ((kept[rows] == rows) | (most > cosine[rows]))
                    kept[rows[better]], cosine[rows[better]] = against[best[better]], most[better]
                alike = np.triu(mine @ mine.T, 1)
                for first in np.flatnonzero((alike >= threshold).any(1)).tolist():
                    if kept[rows[first]] == rows[first]:
                        near = np.flatnonzero((alike[first] >= threshold) & (kept[rows] == rows))
                        kept[rows[near]], cosine[rows[near]] = rows[first], alike[first, near]
                left[here] = np.concatenate([left[here], rows[kept[rows] == rows]])
                progress.advance(task, len(rows))
    return kept, cosine


def cells_of(points: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the centroids of cells, [k, d], and of each point its cell and the squared distance, [n] each."""
    rng, count = np.random.default_rng(seed), math.ceil(len(points) / CELL)
    some = np.sort(rng.choice(len(points), min(len(points), SAMPLED * count), replace=False))
    centroids = k_means(points, some, count, rng)
    return centroids, *nearest(points, centroids)
