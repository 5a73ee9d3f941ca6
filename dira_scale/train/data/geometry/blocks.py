"""Blocks of equal size that a view is cut into, windows of it, and permutations that differ in many places."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dira_scale.base.arguments import ArgumentError


def cut(x: Tensor, blocks: Sequence[int]) -> Tensor:
    """Return the ``blocks`` on each axis of ``x`` [b, C, *size], the last axis first: [b, n, C, *sides]."""
    b, c, *size = x.shape
    split = [part for side, count in zip(size, blocks, strict=True) for part in (count, side // count)]
    counts, sides = range(2, 2 + 2 * len(size), 2), range(3, 3 + 2 * len(size), 2)
    return x.reshape(b, c, *split).permute(0, *counts, 1, *sides).reshape(b, prod(blocks), c, *split[1::2])


def joined(x: Tensor, blocks: Sequence[int]) -> Tensor:
    """Undo ``cut``: [b, n, C, *sides] -> [b, C, *size]."""
    b, _, c, *sides = x.shape
    n = len(blocks)
    pairs = (axis for i in range(n) for axis in (1 + i, 2 + n + i))
    size = [side * count for side, count in zip(sides, blocks, strict=True)]
    return x.reshape(b, *blocks, c, *sides).permute(0, 1 + n, *pairs).reshape(b, c, *size)


def exchanged(x: Tensor, places: Tensor) -> Tensor:
    """Return ``x`` [b, n, …] with that block at place p of each sample that ``places`` int64 [b, n] names for p."""
    index = places.reshape(*places.shape, *(1,) * (x.dim() - 2))
    return x.gather(1, index.expand_as(x))


def window(x: Tensor, corners: Tensor, sides: Sequence[int]) -> Tensor:
    """Return the patch of ``x`` [b, C, *size] that starts at each sample's ``corners`` int64 [b, n]: [b, C, *sides]."""
    for axis, side in enumerate(sides):
        rows = corners[:, axis, None] + torch.arange(side, device=x.device)
        rows = rows.view(len(x), *(side if dim == axis + 2 else 1 for dim in range(1, x.dim())))
        x = x.gather(axis + 2, rows.expand(*(side if dim == axis + 2 else n for dim, n in enumerate(x.shape))))
    return x


@lru_cache(maxsize=4)
def distant_permutations(blocks: int, count: int) -> np.ndarray:
    """Return ``count`` permutations of ``blocks``, int64 [count, blocks], that are hard to confuse.

    The first is as they are; each next one has the largest least Hamming distance to those before, the first of equals
    in lexicographic order (Noroozi and Favaro, ECCV 2016, algorithm 1, which begins with a random one). A
    thousand of 8 take a second.
    """
    every = np.array([*permutations(range(blocks))], np.int8)
    chosen, least = [0], np.full(len(every), blocks + 1, np.int8)
    while len(chosen) < count:
        least = np.minimum(least, (every != every[chosen[-1]]).sum(1, dtype=np.int8))
        chosen.append(int(least.argmax()))
    return every[chosen].astype(np.int64)


@lru_cache(maxsize=4)
def read_permutations(file: str, blocks: int, count: int) -> np.ndarray:
    """Return the ``count`` permutations of ``blocks`` in ``file``, int64 [count, blocks]: an array (.npy), or text with
    one on each line, numbered from 0 or from 1. A row says which block is seen at each place.

    Raises ArgumentError about ``file``.
    """
    path = Path(file).expanduser()
    try:
        if path.suffix == ".npy":
            rows = np.load(path, allow_pickle=False)
        else:
            lines = path.read_text().replace(",", " ").splitlines()
            rows = np.array([[int(number) for number in line.split()] for line in lines if line.strip()])
        if rows.dtype.kind not in "iu":
            raise ValueError(f"it has {rows.dtype}, not whole numbers")
    except (OSError, ValueError) as error:
        raise ArgumentError("file", file, f".npy, or text with a permutation on each line ({error})") from error
    if rows.shape != (count, blocks):
        found = " x ".join(map(str, rows.shape))
        raise ArgumentError("file", file, f"{count} permutations of {blocks} blocks; the file has {found} numbers")
    first = int(rows.min() == 1)
    wrong = (np.sort(rows, 1) != np.arange(blocks) + first).any(1)
    if wrong.any():
        row = int(wrong.argmax())
        expected = f"each number from {first} to {blocks - 1 + first} once in a row; row {row + 1} is"
        raise ArgumentError("file", file, f"{expected} {rows[row].tolist()}")
    if (several := count - len(np.unique(rows, axis=0))) > 0:
        raise ArgumentError("file", file, f"permutations that differ; {several} are there before")
    return rows.astype(np.int64) - first
