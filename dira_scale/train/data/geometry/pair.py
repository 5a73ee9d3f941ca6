"""Pairs of crops of a volume that overlap by more than a bound, in any number of dimensions n.

They are distributed as by plain rejection: sizes and positions of both drawn anew until the bound holds. In a large
volume that takes thousands of draws. Here candidates are drawn, uniformly, from the only pairs that can meet the bound:
on each axis they overlap by enough if the overlap were the largest on the others. Of these at least about one in n!
meets it, in three dimensions one in six, so that a sample takes a few.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dira_scale.train.data import random
from dira_scale.train.data.geometry.crop import Geometry, boxes
from dira_scale.train.data.geometry.volume import VolumeCrop

AT_ONCE = 16  # candidates that are drawn together
SLACK = 1e-6  # voxels: rounding may add a candidate, which is then refused, but leave none out
MOST = 256  # of a sample, of 4 random numbers each; (5 / 6)^256 is 5e-21. After these: the two that overlap most

# Samples, the first number, how many -> float64 [b, how many].
CandidateNumbers = Callable[[np.ndarray, int, int], np.ndarray]


@dataclass(frozen=True)
class PairCrop:
    """Two crops by the rule ``crop`` whose intersection over union is above ``iou``; of one size if ``same_size``."""

    crop: VolumeCrop
    iou: float
    same_size: bool

    @property
    def numbers(self) -> int:
        """The number of random numbers of a candidate, for the pair of sizes and each axis; a multiple of 4."""
        return -(-(1 + len(self.crop.axes)) // 4) * 4

    def best(self) -> float:
        """The largest IoU that crops of these sizes have; where they may be turned, whichever of them is."""
        upright, turned = self.crop.extents(np.array([False, True]), None)[:, None]
        others = (upright, turned) if self.crop.turned else (upright,)
        return min(float(_iou(self._pairs(upright, other), np.zeros(upright.shape[-1])).max()) for other in others)

    def draw(
        self,
        u: tuple[np.ndarray, np.ndarray],
        candidates: CandidateNumbers,
        sides: np.ndarray,
        step: np.ndarray | None = None,
    ) -> tuple[Geometry, Geometry]:
        """The crops of volumes with ``sides`` int64 [b, n].

        ``u``, of each [b, crop.numbers], orients them; ``step`` is as ``VolumeCrop.draw`` has it.
        """
        (flip, transposed), (other_flip, other_transposed) = map(self.crop.orientation, u)
        extents = self._pairs(self.crop.extents(transposed, step), self.crop.extents(other_transposed, step))
        low, high = self.crop.starts(extents, sides[:, None], None if step is None else step[:, None])
        starts, chosen = np.empty((2, *sides.shape), np.int64), np.empty((2, *sides.shape), extents.dtype)
        todo = np.arange(len(sides))
        for first in range(0, MOST, AT_ONCE):
            v = candidates(todo, first * self.numbers, AT_ONCE * self.numbers).reshape(len(todo), AT_ONCE, -1)
            part = _Pairs(extents[:, todo], low[:, todo], high[:, todo], self.iou)
            starts[:, todo], chosen[:, todo], met = part.draw(v)
            if not (todo := todo[~met]).size:
                break
        first_box, second_box = map(boxes, starts, chosen)
        return Geometry(first_box, flip, transposed), Geometry(second_box, other_flip, other_transposed)

    def _pairs(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Extents [2, b, pairs, n] of all pairs of ``first`` and ``second`` [b, sizes, n] that may be drawn."""
        every = np.arange(first.shape[1])
        one, two = (every, every) if self.same_size else (np.repeat(every, len(every)), np.tile(every, len(every)))
        return np.stack((first[:, one], second[:, two]))


class _Pairs:
    """The pairs of sizes of b samples, and where their boxes may begin.

    Attributes:
        extents, low, high: [2, b, pairs, n], of both boxes: extents, the first and the last voxel that they begin at.
        closest: [b, pairs, n], the distance (the second start less the first) at which they overlap most.
        best: [b, pairs], their IoU there.
        before, count: [b, pairs, n]: of both starts on an axis, in the order of their distance, how many precede the
            candidates, and how many candidates there are.
        share: [b, pairs], of all positions those that are candidates; 0 for a pair that cannot meet the bound.
    """

    def __init__(self, extents: np.ndarray, low: np.ndarray, high: np.ndarray, iou: float) -> None:
        self.extents, self.low, self.high, self.iou = extents, low, high, iou
        free, nearest, farthest = high - low, low[1] - high[0], high[1] - low[0]
        self.closest = np.clip(0, nearest, farthest)
        self.best, most = _iou(extents, self.closest), _overlap(extents, self.closest)
        needed = iou / (1 + iou) * extents.prod(-1).sum(0)  # of the intersection
        others = np.stack([np.delete(most, axis, -1).prod(-1) for axis in range(most.shape[-1])], -1)
        least = needed[..., None] / np.maximum(others, SLACK)
        first = np.maximum(np.ceil(least - extents[1] - SLACK), nearest).astype(np.int64)
        last = np.minimum(np.floor(extents[0] - least + SLACK), farthest).astype(np.int64)
        self.before = _preceding(first - nearest, *free)
        self.count = np.maximum(_preceding(last + 1 - nearest, *free) - self.before, 0)
        self.share = (self.count / (free + 1).prod(0)).prod(-1) * (self.best > iou)

    def draw(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first of the candidates ``v`` [b, candidates, 1 + n or more] that meets the bound: starts and extents of
        both boxes [2, b, n], and whether there is one, [b]; without one, those that overlap most."""
        sums = np.cumsum(self.share, 1)
        pair = (v[..., :1] * sums[:, None, -1:] < sums[:, None]).argmax(2)
        row = np.arange(len(v))
        at = row[:, None], pair
        count, low, high = self.count[at], self.low[:, *at], self.high[:, *at]
        rank = self.before[at] + random.integers(v[..., 1 : 1 + low.shape[-1]], 0, count - 1)
        order, number = _by_rank(rank, *(high - low))
        distance = order + low[1] - high[0]
        met = _iou(self.extents[:, *at], distance) > self.iou
        first, most = met.argmax(1), self.best.argmax(1)
        met_any = met[row, first]
        chosen = row, np.where(met_any, pair[row, first], most)
        distance = np.where(met_any[:, None], distance[row, first], self.closest[chosen])
        start = np.maximum(self.low[0][chosen], self.low[1][chosen] - distance)
        start += np.where(met_any[:, None], number[row, first], 0)
        return np.stack((start, start + distance)), self.extents[:, *chosen], met_any


def _overlap(extents: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """On each axis, of boxes with ``extents`` [2, ...] whose starts are so far apart: the second's less the first's."""
    one, two = extents
    return np.maximum(np.minimum(one, distance + two) - np.maximum(0, distance), 0)


def _iou(extents: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Intersection over union [...] of boxes with ``extents`` [2, ..., n] and ``distance`` [..., n]."""
    intersection = _overlap(extents, distance).prod(-1)
    return intersection / (extents.prod(-1).sum(0) - intersection)


# Two starts, p from 0 to a and q from 0 to b, in the order of q - p: their number rises by 1 from one distance to the
# next, up to min(a, b) + 1, stays, and falls again. So ranks in this order follow from triangular numbers.


def _preceding(order: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Count the pairs (p, q) with a distance below the one of number ``order``, counted from q - p = -a."""
    least, most, order = np.minimum(a, b), np.maximum(a, b), np.clip(order, 0, a + b + 1)
    rising, falling = np.minimum(order, least + 1), np.maximum(order - most - 1, 0)
    level = np.clip(order - least - 1, 0, most - least)
    return _triangle(rising) + level * (least + 1) + _triangle(least) - _triangle(least - falling)


def _by_rank(rank: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of the distance that the pair (p, q) of this rank has, and the pair's number among its pairs."""
    least = np.minimum(a, b)
    head, total = _triangle(least + 1), (a + 1) * (b + 1)
    level, within = np.divmod(rank - head, least + 1)
    order, number = least + 1 + level, within
    for end, position in ((False, rank), (True, total - 1 - rank)):
        row = ((np.sqrt(8.0 * np.maximum(position, 0) + 1) - 1) / 2).astype(np.int64)
        beyond = position < (_triangle(least) if end else head)
        order = np.where(beyond, a + b - row if end else row, order)
        number = np.where(beyond, position - _triangle(row), number)
    return order, number


def _triangle(n: np.ndarray) -> np.ndarray:
    return n * (n + 1) // 2
