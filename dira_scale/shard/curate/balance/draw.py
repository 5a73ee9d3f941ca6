"""The balanced draw from a tree of clusters, as a whole number of repeats of each image (Vo et al., section 3.3).

From the top down, the clusters of one cluster have equal shares of its draws, as far as these have room, which is that
of their images; what one cannot take the others share. Last, the images of a finest cluster share its draws likewise.
What does not divide goes, one each, to those whose keyed numbers are least.
"""

from collections.abc import Sequence

import numpy as np

from dira_scale.train.data import random


def repeats(levels: Sequence[np.ndarray], room: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Return how often each image is drawn, int64 [n], ``draws`` times in all, at most the sum of ``room``.

    ``levels``: of each image its cluster, [n], from the finest level on. ``room``: how often it may be drawn, [n].
    """
    shares, above = np.array([draws]), np.zeros(len(room), np.int64)
    for number, cluster in enumerate([*reversed(levels), np.arange(len(room))]):
        rooms = np.bincount(cluster, room).astype(np.int64)
        keyed = random.mix(np.arange(len(rooms), dtype=np.uint64) + np.uint64(random.key("balance", seed, number)))
        parent, below = np.zeros(len(rooms), np.int64), np.zeros(len(rooms), np.int64)
        parent[cluster] = above  # an empty one has no room, and may be anybody's
        ends = np.cumsum(np.bincount(parent, minlength=len(shares)))
        for share, members in zip(shares, np.split(np.argsort(parent, kind="stable"), ends[:-1]), strict=True):
            below[members] = divided(int(share), rooms[members], keyed[members])
        shares, above = below, cluster
    return shares


def divided(draws: int, room: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return equal shares of ``draws``, none above its ``room``, int64 [n]; the least of ``numbers`` [n] have one
    more."""
    low, high = 0, int(room.max(initial=0)) + 1  # of the level to which all are filled
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if np.minimum(room, middle).sum() <= draws else (low, middle)
    shares, more = np.minimum(room, low), np.flatnonzero(room > low)
    shares[more[np.argsort(numbers[more], kind="stable")[: draws - int(shares.sum())]]] += 1
    return shares
