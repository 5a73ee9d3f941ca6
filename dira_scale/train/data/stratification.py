"""Draw patients so that every label keeps its share of them."""

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.data.alike import numbered
from dira_scale.train.data.mapped import chunks

if TYPE_CHECKING:  # an order is made where no shards are, hence no pyarrow
    import pyarrow as pa


def in_drawn_order(names: "pa.Array", present: np.ndarray, seed: int) -> np.ndarray:
    """Return the numbers of those ``names``, each once, that are ``present`` bool [P], in a random order that is
    determined only by them and ``seed``."""
    numbers = np.flatnonzero(present)
    digests = np.empty((len(numbers), 4), ">u8")
    for part in chunks(len(numbers)):
        of_part = (f"{seed} {name}".encode() for name in names.take(numbers[part]).to_pylist())
        joined = b"".join(hashlib.sha256(text).digest() for text in of_part)
        digests[part] = np.frombuffer(joined, ">u8").reshape(-1, 4)
    return numbers[np.lexsort(digests.T[::-1])]


def stratified(positive: np.ndarray, names: Sequence[str], fraction: float, from_end: bool = False) -> np.ndarray:
    """Return a mask of a share of the patients, in which every label has its share of positive ones.

    ``positive``: of the patients in a drawn order, bits of uint8 [P, ceil(S / 8)], for each of ``names``: a label, or a
    class of a label of classes. A label that has a positive keeps one, however rare it is.

    With ``from_end`` the patients that a fraction from the start leaves: a from the start and b from the end share none
    if a + b <= 1, unless there are so few patients that one of the shares rounds to nobody, as either has one at least.
    Of a very rare label they may have no positive, as the start has those first.

    Raises ArgumentError, which names a label, if the fraction from the start is too small to keep a positive.
    """
    (bits, member), patients = numbered(positive), len(positive)
    of_group, size = np.unpackbits(bits, 1)[:, : len(names)].astype(bool), np.bincount(member)
    if from_end:
        before = round(round(1 - fraction, 9) * patients)  # 1 - 0.9 is not quite 0.1, which rounds another way
        return ~_first(member, size, _balanced(of_group, size, min(max(1, before), patients - 1)))
    count = max(1, round(fraction * patients))
    balanced = _balanced(of_group, size, count)
    if lost := np.flatnonzero(of_group.any(0) & ~of_group[balanced].any(0)).tolist():
        seen = np.maximum.accumulate(of_group[_balanced(of_group, size, min(patients, len(names)))])
        enough = 1 + int(np.flatnonzero((seen == of_group.any(0)).all(1))[0])
        why = f"{count} of {patients} patients cannot have a positive of every label"
        expected = f"{math.ceil(1e4 * enough / patients) / 1e4:g} or more: {why}: '{names[lost[0]]}' would have none"
        raise ArgumentError("fraction", fraction, expected)
    return _first(member, size, balanced)


def _first(member: np.ndarray, size: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return a mask of the first rows of the ``groups``, each as often as it is there. ``member`` [P], ``size`` [G]."""
    among, chosen = np.arange(len(member)) - np.repeat(np.cumsum(size) - size, size), np.empty(len(member), bool)
    taken = np.bincount(groups, minlength=len(size))
    chosen[np.argsort(member, kind="stable")] = among < np.repeat(taken, size)
    return chosen


def _balanced(positive: np.ndarray, size: np.ndarray, count: int) -> np.ndarray:
    """Return the groups of the first ``count`` rows in an order whose every beginning has all columns' shares.

    Args:
        positive: of the rows of each group, which are alike, bool [G, S]; groups by their first rows.
        size: rows of each.

    It begins with rows that together have every column: each time one that adds most. Then each row is the one after
    which the columns' counts are nearest to their shares, by the sum of squares; rows without any positive count as a
    column, too. That is iterative stratification (Sechidis et al., "On the stratification of multi-label data", ECML
    PKDD 2011), of beginnings instead of folds. Among equal rows the first is taken. Counts stay within about one row.
    """
    columns, rows = np.concatenate([positive, ~positive.any(1, keepdims=True)], 1), int(size.sum())
    number = {of_group.tobytes(): group for group, of_group in enumerate(columns)}
    # Whole numbers, so exact, in floats, whose products are fast: counts times the number of rows.
    groups = columns.astype(float)
    total, held, taken = size @ groups, np.zeros(columns.shape[1]), np.zeros_like(size)
    missing, chosen = positive.any(0), np.empty(count, np.int64)
    for i in range(count):
        twice = 2 * (held * rows - (i + 1) * total)
        # Rows of exactly the columns that are behind by more than half a row are nearest, where there are any left.
        best = -1 if missing.any() or (twice == -rows).any() else number.get((twice < -rows).tobytes(), -1)
        if best < 0 or taken[best] == size[best]:
            cost, none_left = groups @ (twice + rows), taken == size
            if missing.any():
                adds = positive[:, missing].sum(1)
                cost[adds < adds[~none_left].max()] = np.inf
            cost[none_left] = np.inf
            near = np.flatnonzero(cost == cost.min())
            best = near[np.argmax((i + 1) * size[near] - rows * taken[near])]  # of those most behind the first
            missing &= ~positive[best]
        chosen[i] = best
        taken[best] += 1
        held += groups[best]
    return chosen
