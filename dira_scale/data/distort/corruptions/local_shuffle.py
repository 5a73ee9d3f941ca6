"""Local shuffling (Models Genesis, sec. 2.2): voxels change places within small blocks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from dira_scale.data.distort.corruptions.draws import KEY, Params, hashed, key, of_some, share, unit
from dira_scale.errors import UserError

_RANDOM, _SLOT = 27, 16  # bits of a voxel in the order of its block: random, and its number there


@dataclass(frozen=True)
class LocalShuffle:
    """With probability ``p``, the voxels within each of ``blocks`` blocks are permuted.

    A block has sides from 1 to a tenth of the view's, anywhere. All are read from the view as it was; where they
    overlap the last one counts (the authors' code).

    Parameters: ``on`` bool [b], ``key`` int64 [b], from which blocks and permutations follow.
    """

    p: float = 0.5
    blocks: int = 10000

    def numbers(self, size: Sequence[int]) -> int:
        """See ``Corruption``."""
        share("p", self.p)
        if not 0 < self.blocks < 2**20:
            raise UserError(f"blocks={self.blocks}: expected 1 to {2**20 - 1}")
        if np.prod([_largest(n) for n in size]) >= 2**_SLOT:
            raise UserError(f"a view of {' x '.join(map(str, size))} is too large: blocks have up to {2**_SLOT} voxels")
        return 1 + KEY

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        """See ``Corruption``."""
        return {"on": u[:, 0] < self.p, "key": key(u[:, 1:])}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """See ``Corruption``."""
        return of_some(x, params["on"], params, self._shuffled)

    def _shuffled(self, x: Tensor, params: Params) -> Tensor:
        if type(x) is not Tensor:  # without values, as planning has: of the same size
            return x.clone()
        size = tuple(x.shape[2:])
        find = _sources if x.device.type == "cpu" else _sources_at_once
        source = torch.stack([find(key, self.blocks, size) for key in params["key"].unbind()])
        return x.flatten(2).gather(2, source[:, None].expand(-1, x.shape[1], -1)).view(x.shape)


def _largest(n: int) -> int:
    """Side of a block on an axis of ``n`` voxels."""
    return max(1, n // 10)


def _blocks(key: Tensor, blocks: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Their sides and starts, int64 [blocks, n] each."""
    n, device = len(size), key.device
    number = torch.arange(2 * n * blocks, dtype=torch.int32, device=device)
    u = unit(hashed(key, number)).view(blocks, 2, n)
    sides = 1 + (u[:, 0] * torch.tensor([_largest(side) for side in size], device=device)).long()
    return sides, (u[:, 1] * (torch.tensor(size, device=device) - sides + 1)).long()


@lru_cache(4)
def _offsets(size: tuple[int, ...]) -> Tensor:
    """For blocks of all sides, in C order, where their voxels lie from their start on: int64 [sizes, most voxels]."""
    largest, steps = [_largest(n) for n in size], np.append(np.cumprod(size[:0:-1])[::-1], 1)
    offsets = np.zeros((math.prod(largest), math.prod(largest)), np.int64)
    for row, sides in zip(offsets, np.ndindex(*largest), strict=True):
        voxels = np.indices([side + 1 for side in sides]).reshape(len(size), -1)
        row[: voxels.shape[1]] = steps @ voxels
    return torch.from_numpy(offsets)


def _first(starts: Tensor, size: tuple[int, ...]) -> Tensor:
    """The number of the voxel at ``starts`` [blocks, n], in C order."""
    number = torch.zeros_like(starts[:, 0])
    for axis, side in enumerate(size):
        number = number * side + starts[:, axis]
    return number


def _sources(key: Tensor, blocks: int, size: tuple[int, ...]) -> Tensor:
    """For each voxel the number of the one that it shows: int64 [voxels]. Only the voxels of blocks are looked at."""
    sides, starts = _blocks(key, blocks, size)
    offsets, most = _offsets(size).numpy(), math.prod(map(_largest, size))
    kind = _first(sides - 1, tuple(_largest(side) for side in size)).numpy()
    counts, first = sides.prod(1).numpy(), _first(starts, size).numpy()
    begin, voxel = np.cumsum(counts) - counts, np.arange(counts.sum())
    block = np.arange(blocks)

    def of_each(values: np.ndarray) -> np.ndarray:
        """What a block has, for each of its voxels."""
        return np.repeat(values, counts)

    number = of_each((2 * len(size) * blocks + block * most - begin).astype(np.int32)) + voxel.astype(np.int32)
    bits = hashed(key, torch.from_numpy(number)).numpy().view(np.uint32) >> np.uint32(32 - _RANDOM)
    order = bits.astype(np.int64)
    order <<= _SLOT
    order += of_each((block << (_RANDOM + _SLOT)) - begin)
    order += voxel
    order.sort()  # within each block, as they are in the order of blocks already
    order &= 2**_SLOT - 1
    order += of_each(begin)
    voxel += of_each(kind * most - begin)
    written = offsets.ravel().take(voxel)
    written += of_each(first)
    source = np.arange(math.prod(size))
    source[written] = written.take(order)  # the last of several writes counts
    return torch.from_numpy(source)


def _random(bits: Tensor) -> Tensor:
    return ((bits.long() >> (32 - _RANDOM)) & (2**_RANDOM - 1)) << _SLOT


def _sources_at_once(key: Tensor, blocks: int, size: tuple[int, ...]) -> Tensor:
    """Return the sources as ``_sources`` does, without a number that the host must know: all blocks as large as the
    largest."""
    sides, starts = _blocks(key, blocks, size)
    offsets, voxels = _offsets(size).to(key.device), math.prod(size)
    most, slot = offsets.shape[1], torch.arange(offsets.shape[1], device=key.device)
    kind = _first(sides - 1, tuple(_largest(side) for side in size))
    there = slot < sides.prod(1, keepdim=True)
    number = torch.arange(blocks, device=key.device)[:, None] * most + slot
    order = _random(hashed(key, (2 * len(size) * blocks + number).int())) + slot
    order = torch.where(there, order, 2**62).sort(1).values & (2**_SLOT - 1)
    first, of_block = _first(starts, size)[:, None], offsets[kind]
    written = torch.where(there, first + of_block, voxels)
    last = torch.full((voxels + 1,), -1, device=key.device)
    last.scatter_reduce_(0, written.flatten(), number.flatten(), "amax")
    source = (first + of_block.gather(1, order.clamp(max=most - 1))).flatten()
    shown = source[last[:-1].clamp(min=0)]
    return torch.where(last[:-1] >= 0, shown, torch.arange(voxels, device=key.device))
