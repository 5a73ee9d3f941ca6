"""Shuffling BatchNorm (He et al., CVPR 2020, sec. 3.3): no query is normalised among the same images as its key.

Their statistics would leak the answer. MoCo permutes the whole batch, of which every process then needs rows of every
other. It is enough that few companions of a query are companions of its key, too, so images move within ``blocks`` of
:data:`BLOCK` BatchNorm groups, by their positions in the batch alone: a block is in one process, or on one node.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from dira_scale.train.distributed.collectives import Exchange, IntArray, world

BLOCK = 8  # groups
VERSION = 2  # of ``blocks``, in the identity of runs that use them
ShuffleKind = Literal["blocks", "batch"]
MAX_LEAK = 0.3  # of a query's companions; the paper's 4 groups of 64 share a quarter
MIN_GROUP = 8  # images of a group that is worth advising


class KeyShuffle:
    """The shuffle of a batch's images before the momentum encoder.

    Args:
        kind: ``blocks``, or ``batch``: as in MoCo's code, the whole batch is permuted, each time in another way.
    """

    def __init__(self, kind: ShuffleKind) -> None:
        self.kind = kind
        self._blocks: tuple[tuple[int, int, torch.device], Exchange] | None = None  # the same in every step

    def enter_stage(self) -> None:
        """Another stage may have another batch."""
        self._blocks = None

    def exchange(self, images: int, groups: int, device: torch.device, step: int, micro_batch: int) -> Exchange:
        """Return the exchange of a micro-batch with ``images`` on each process, in ``groups`` on all of them."""
        count = images * world()
        if self.kind == "batch":
            return Exchange(permutation(count, step, micro_batch), device)
        layout = images, groups, device
        if self._blocks is None or self._blocks[0] != layout:
            self._blocks = layout, Exchange(transposition(count, groups), device)
        return self._blocks[1]


def transposition(count: int, groups: int) -> IntArray:
    """Sample s of group j goes to sample s of group (j + s) mod 8, counted in its block of 8 groups.

    The last block may have fewer: those that are left. Row i of the result comes from row ``transposition[i]``.
    """
    size = count // groups
    sample = np.arange(size)
    rows = []
    for first, block in blocks(groups):
        group = (np.arange(block)[:, None] - sample) % block
        rows.append(((first + group) * size + sample).ravel())
    return np.concatenate(rows)


def permutation(count: int, step: int, micro_batch: int) -> IntArray:
    """Return a permutation that is the same on every process and different for every micro-batch; on the host, which
    plans the exchange."""
    return np.random.Generator(np.random.Philox([step, micro_batch])).permutation(count)


def blocks(groups: int) -> Iterator[tuple[int, int]]:
    """First group and number of groups of each block."""
    for first in range(0, groups, BLOCK):
        yield first, min(BLOCK, groups - first)


def leak(kind: str, count: int, groups: int) -> float:
    """Share of a query's companions in its BatchNorm group that are its key's companions, too; 0 to 1.

    In blocks those stay together whose s differs by a multiple of the block's groups: with g images in each of m groups
    (g / m - 1) / (g - 1) if m divides g. For ``batch`` the expected value, (g - 1) / (B - 1).
    """
    size = count // groups
    if kind == "batch" and groups > 1:
        return (size - 1) / (count - 1)
    return sum(block * block_leak(size, block) for _, block in blocks(groups)) / groups


def block_leak(size: int, block: int) -> float:
    """Return the leak of one block of so many groups; a single group keeps all companions."""
    met = np.bincount(np.arange(size) % block)  # images of a group that go to the same one
    return float((met * (met - 1)).sum() / (size * (size - 1)))


def leak_line(kind: str, count: int, groups: int) -> str:
    """Say what :func:`leak` is, with a warning if it, or that of the last block, is above :data:`MAX_LEAK`."""
    share, size = leak(kind, count, groups), count // groups
    line = f"key shuffle: of {count} images in {groups} BatchNorm group{'s' * (groups > 1)}, a query and its key share "
    line += f"{share:.1%} of their {size - 1} companions"
    *_, (_, last) = blocks(groups)
    if kind == "blocks" and last < min(groups, BLOCK):
        share = max(share, block_leak(size, last))
        line += f", {block_leak(size, last):.1%} in the last block, of {last} group{'s' * (last > 1)}"
    if share <= MAX_LEAK:
        return line
    line += f": above {MAX_LEAK:.0%}, their statistics may tell which key is the query's"
    for smaller in range(size - 1, MIN_GROUP - 1, -1):
        if count % smaller == 0 and (less := leak(kind, count, count // smaller)) <= MAX_LEAK:
            return f"{line}; with model.bn_groups={count // smaller}, groups of {smaller}, it is {less:.1%}"
    return f"{line}; more groups (model.bn_groups) of {MIN_GROUP} images or more need a larger data.batch"
