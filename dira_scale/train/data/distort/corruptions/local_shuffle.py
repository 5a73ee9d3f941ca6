"""Local shuffling (Models Genesis, sec. 2.2): voxels change places within small blocks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dira_scale.base.arguments import Bound
from dira_scale.train.data.distort.corruptions.draws import (
    KEY,
    Params,
    Sometimes,
    hashed,
    key,
    one_by_one,
    shifted,
    unit,
)
from dira_scale.train.data.views.parts import Chance

_RANDOM, _SLOT = 27, 16  # bits of a voxel in the order of its block: random, and its number there
SLOTS = 2**24  # of voxels of blocks that are computed at once: those of 16 samples of 32 x 64 x 64, in some 0.7 GB


@dataclass(frozen=True)
class LocalShuffle(Sometimes):
    """With probability ``p``, the voxels within each of ``blocks`` blocks are permuted.

    A block has sides from 1 to a tenth of the view's, anywhere. All are read from the view as it was; where they
    overlap the last one counts (the authors' code).

    Parameters: ``on`` bool [b], ``key`` int64 [b], from which blocks and permutations follow.
    """

    p: Chance = 0.5
    blocks: Annotated[int, Bound(f"from 1 to {2**20 - 1}", lambda value: 0 < value < 2**20)] = 10000

    def numbers(self, size: Sequence[int]) -> int:
        if np.prod([_largest(n) for n in size]) >= 2**_SLOT:
            shown = " x ".join(map(str, size))
            raise ValueError(f"LocalShuffle has blocks of up to {2**_SLOT} voxels: a view of {shown} is too large")
        return 1 + KEY

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        return {"on": u[:, 0] < self.p, "key": key(u[:, 1:])}

    def changed(self, x: Tensor, params: Params) -> Tensor:
        tables = _tables(tuple(x.shape[2:]), x.device, getattr(x, "fake_mode", None))
        if one_by_one(x):
            parts = [_sources(key, self.blocks, tables)[None] for key in params["key"].unbind()]
        else:
            samples = max(1, SLOTS // (self.blocks * tables.offsets.shape[1]))
            parts = [_sources_at_once(keys, self.blocks, tables) for keys in params["key"].split(samples)]
        source = torch.cat(parts)[:, None].expand(-1, x.shape[1], -1)
        return x.flatten(2).gather(2, source).view(x.shape)


def _largest(n: int) -> int:
    """Side of a block on an axis of ``n`` voxels."""
    return max(1, n // 10)


class Tables(NamedTuple):
    """Lookup tables for views of one size, on one device.

    Attributes:
        size: of a view.
        sides, largest: of a view and of the largest block, int64 [n].
        offsets: of blocks of all sides, in C order, where their voxels lie from their start on: int64 [sizes, most
            voxels], 0 where a block has fewer.
    """

    size: tuple[int, ...]
    sides: Tensor
    largest: Tensor
    offsets: Tensor


@lru_cache(8)
def _tables(size: tuple[int, ...], device: torch.device, plan: object) -> Tables:
    """A ``plan``, whose tensors have no values, has its own."""
    largest, steps = [_largest(n) for n in size], np.append(np.cumprod(size[:0:-1])[::-1], 1)
    offsets = np.zeros((math.prod(largest), math.prod(largest)), np.int64)
    for row, sides in zip(offsets, np.ndindex(*largest), strict=True):
        voxels = np.indices([side + 1 for side in sides]).reshape(len(size), -1)
        row[: voxels.shape[1]] = steps @ voxels
    return Tables(size, *(torch.tensor(table).to(device) for table in (size, largest, offsets)))


def _blocks(keys: Tensor, blocks: int, tables: Tables) -> tuple[Tensor, Tensor]:
    """Their sides and starts, int64 [*keys, blocks, n] each."""
    n = len(tables.size)
    number = torch.arange(2 * n * blocks, dtype=torch.int32, device=keys.device)
    u = unit(hashed(keys[..., None], number)).unflatten(-1, (blocks, 2, n))
    sides = 1 + (u[..., 0, :] * tables.largest).long()
    return sides, (u[..., 1, :] * (tables.sides - sides + 1)).long()


def _number(places: Tensor, size: Tensor) -> Tensor:
    """The numbers of ``places`` [..., n] in C order of an array of ``size`` [..., n]."""
    number = places[..., 0]
    for axis in range(1, places.shape[-1]):
        number = number * size[..., axis] + places[..., axis]
    return number


def _sources(key: Tensor, blocks: int, tables: Tables) -> Tensor:
    """For each voxel the number of the one that it shows: int64 [voxels]. Only the voxels of blocks are looked at."""
    sides, starts = _blocks(key, blocks, tables)
    offsets, most = tables.offsets.numpy(), tables.offsets.shape[1]
    kind, first = _number(sides - 1, tables.largest).numpy(), _number(starts, tables.sides).numpy()
    counts = sides.prod(1).numpy()
    begin, voxel = np.cumsum(counts) - counts, np.arange(counts.sum())
    block = np.arange(blocks)

    def of_each(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, counts)

    number = of_each((2 * len(tables.size) * blocks + block * most - begin).astype(np.int32)) + voxel.astype(np.int32)
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
    source = np.arange(math.prod(tables.size))
    source[written] = written.take(order)  # the last of several writes counts
    return torch.from_numpy(source)


def _sources_at_once(keys: Tensor, blocks: int, tables: Tables) -> Tensor:
    """Return the sources of all ``keys`` [s] as ``_sources`` does, int64 [s, voxels], without a number that the host
    must know: all blocks have as many slots as the largest."""
    sides, starts = _blocks(keys, blocks, tables)
    kind, first = _number(sides - 1, tables.largest), _number(starts, tables.sides)
    offsets, most, voxels = tables.offsets, tables.offsets.shape[1], math.prod(tables.size)
    number = torch.arange(blocks * most, device=keys.device).view(blocks, most)
    slot = number[0]
    unused = slot >= sides.prod(-1, keepdim=True)  # [s, blocks, most]
    bits = shifted(hashed(keys[:, None, None], (2 * len(tables.size) * blocks + number).int()), 32 - _RANDOM)
    order = bits.masked_fill_(unused, 1 << _RANDOM).sort(stable=True).indices
    # An unused slot is its block's first one again, as it is in ``offsets``.
    written, writes = first[..., None] + offsets[kind], torch.where(unused, number[:, :1], number)
    last = torch.full((len(keys), voxels), -1, device=keys.device)
    last.scatter_reduce_(1, written.flatten(1), writes.flatten(1), "amax")
    there = last.clamp(min=0)
    block = there // most
    source = first.gather(1, block) + offsets[kind.gather(1, block), order.flatten(1).gather(1, there)]
    return torch.where(last >= 0, source, torch.arange(voxels, device=keys.device))
