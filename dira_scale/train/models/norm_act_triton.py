"""The kernels of ``norm_act.py`` on GPUs, in Triton: under the names and signatures of the operations there.

A map is taken as units of rows: channels last, a unit is a group of samples and its rows are all their pixels; else a
unit is a sample, whose channels lie one after the other. Each unit is cut into chunks of rows, so that few samples and
channels keep all of a GPU's processors busy. No kernel adds atomically, so two runs are equal. A network has hundreds
of these operations, so all that follows from a map's shape is worked out once (``base/machine/kernels.py``).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dira_scale.base.machine.kernels import KernelLaunch

PROGRAMS = {"sums": 768, "map": 8192}  # that a kernel is cut into at most; on any GPU, so that sums are the same
TILE, MOST = 4096, 64  # values of a tile, and its channels at most, where channels are last
ROW = 2048  # values of a tile of one channel, where they are not
PARTS, COLUMNS = 128, 8  # of a tile of partial sums
KINDS = 4096  # of maps whose launches are kept
# Counts whose divisors a kernel has no use for: by these no other machine code is made.
ANY = {"do_not_specialize": ["chunks", "tiles", "chunk", "per_group", "values", "stride"]}


@dataclass(frozen=True)
class MapDivision:
    """The division of a map among programs of a kernel.

    Attributes:
        units, rows, channels: of the map.
        chunks, tiles: of a unit, and of each chunk, whose last ones may be cut short.
        tile: its rows and channels.
        shape: what of it is fixed in machine code.
    """

    units: int
    rows: int
    channels: int
    chunks: int
    tiles: int
    tile: tuple[int, int]
    shape: dict[str, Any]

    @classmethod
    def of(cls, kind: "MapKind", groups: int, purpose: str) -> "MapDivision":
        (samples, channels, *size), dtype, _, last = kind
        units = groups if last else samples
        rows = samples * torch.Size(size).numel() // units
        columns = min(MOST, triton.next_power_of_2(channels)) if last else 1
        tile = TILE // columns if last else ROW
        chunks = max(1, PROGRAMS[purpose] // (units * -(-channels // columns)))
        tiles = -(-rows // (chunks * tile))
        wide = tl.float64 if dtype == torch.float64 else tl.float32
        shape = {"LAST": last, "ROWS": tile, "COLUMNS": columns, "WIDE": wide}
        return cls(units, rows, channels, -(-rows // (tiles * tile)), tiles, (tile, columns), shape)

    @property
    def grid(self) -> tuple[int, int]:
        return self.units * self.chunks, -(-self.channels // self.tile[1])

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return self.rows, self.channels, self.chunks, self.tiles

    def merged(self, groups: int, stride: int = 0, **more: bool) -> KernelLaunch:
        """Return the launch that merges the two values of each chunk into a group's."""
        grid, chunk = (groups, -(-self.channels // COLUMNS)), self.tiles * self.tile[0]
        counts = self.rows, self.channels, self.chunks, chunk, self.units // groups, stride
        return KernelLaunch(_merged, grid, *counts, PARTS=PARTS, COLUMNS=COLUMNS, **more)


MapKind = tuple[torch.Size, torch.dtype, torch.device, bool]  # of a map; whether channels are last


def norm_act_stats(x: Tensor, groups: int, noted: Tensor | None) -> Tensor:
    notes = None if noted is None else (noted.stride(0), noted.dtype)
    programs, wide, moments, merged = _stats(_kind(x), groups, notes)
    parts = x.new_empty(programs, 2, x.shape[1], dtype=wide)
    moments(x, parts)
    stats = x.new_empty(groups, 2, x.shape[1], dtype=wide)
    merged(parts, stats, stats if noted is None else noted)
    return stats


def norm_act_apply(
    x: Tensor, stats: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, slope: float,
    eps: float,
) -> Tensor:  # fmt: skip
    affine = None if weight is None else weight.dtype
    launch = _map("_applied", _kind(x), len(stats), affine, slope, eps, RESIDUAL=residual is not None)
    added, y = x if residual is None else residual, torch.empty_like(x)
    launch(x, added, y, *_given(stats, weight, bias))
    return y


def norm_act_sums(
    dy: Tensor, x: Tensor, y: Tensor | None, dz: Tensor | None, stats: Tensor, weight: Tensor | None,
    bias: Tensor | None, slope: float, eps: float,
) -> Tensor:  # fmt: skip
    affine = None if weight is None else weight.dtype
    programs, summed, merged = _sums(_kind(x), len(stats), affine, slope, eps, y is not None)
    parts = stats.new_empty(programs, 2, x.shape[1])
    maps = dy, x, x if y is None else y, x if dz is None else dz
    summed(*maps, parts, *_given(stats, weight, bias))
    sums = torch.empty_like(stats)
    merged(parts, sums, sums)
    return sums


def norm_act_gradient(
    dz: Tensor, x: Tensor, stats: Tensor, weight: Tensor | None, bias: Tensor | None, sums: Tensor, slope: float,
    eps: float,
) -> Tensor:  # fmt: skip
    affine = None if weight is None else weight.dtype
    launch, dx = _map("_differentiated", _kind(x), len(stats), affine, slope, eps), torch.empty_like(x)
    launch(dz, x, dx, *_given(stats, weight, bias), sums)
    return dx


@lru_cache(KINDS)
def _stats(
    kind: MapKind, groups: int, notes: tuple[int, torch.dtype] | None
) -> tuple[int, torch.dtype, KernelLaunch, KernelLaunch]:
    cut = MapDivision.of(kind, groups, "sums")
    merged = cut.merged(groups, notes[0] if notes else 0, MOMENTS=True, NOTED=notes is not None)
    wide = torch.promote_types(kind[1], torch.float32)
    return cut.grid[0], wide, KernelLaunch(_moments, cut.grid, *cut.sizes, **cut.shape), merged


@lru_cache(KINDS)
def _sums(
    kind: MapKind, groups: int, affine: torch.dtype | None, slope: float, eps: float, residual: bool
) -> tuple[int, KernelLaunch, KernelLaunch]:
    cut = MapDivision.of(kind, groups, "sums")
    fixed = {"slope": slope, "eps": eps, **cut.shape, "AFFINE": affine is not None, "RESIDUAL": residual}
    summed = KernelLaunch(_summed, cut.grid, *cut.sizes, cut.units // groups, **fixed)
    return cut.grid[0], summed, cut.merged(groups, MOMENTS=False, NOTED=False)


@lru_cache(KINDS)
def _map(
    name: str, kind: MapKind, groups: int, affine: torch.dtype | None, slope: float, eps: float, **more: bool
) -> KernelLaunch:
    cut = MapDivision.of(kind, groups, "map")
    counts = *cut.sizes, cut.units // groups, *(() if more else (cut.rows * (cut.units // groups),))
    fixed = {"slope": slope, "eps": eps, **cut.shape, "AFFINE": affine is not None, **more}
    return KernelLaunch(globals()[name], cut.grid, *counts, **fixed)


def _kind(x: Tensor) -> MapKind:
    return x.shape, x.dtype, x.device, not x.is_contiguous()


def _given(stats: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, ...]:
    return stats, stats if weight is None else weight, stats if bias is None else bias


@triton.jit
def _first(rows, channels, chunks, tiles, LAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return a program's unit, where its first tile lies [ROWS, COLUMNS], how far the next one is, its channels, and
    the rows that it begins and ends at."""
    unit, begin = tl.program_id(0) // chunks, tl.program_id(0) % chunks * tiles * ROWS
    channel, row = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS), begin + tl.arange(0, ROWS)
    if LAST:
        offsets, step = row.to(tl.int64)[:, None] * channels + channel[None, :], ROWS * channels
    else:
        offsets, step = row.to(tl.int64)[:, None] + channel.to(tl.int64)[None, :] * rows, ROWS
    end = tl.minimum(begin + tiles * ROWS, rows)
    return unit, unit.to(tl.int64) * rows * channels + offsets, step, channel, begin, end


@triton.jit
def _norm(stats, weight, bias, group, channel, channels, eps: tl.constexpr, WIDE: tl.constexpr, AFFINE: tl.constexpr):
    """Mean, 1 / deviation, weight and bias of a tile's channels [1, COLUMNS]."""
    inside = channel < channels
    place = stats + group * 2 * channels + channel
    m, s = tl.load(place, inside, 0.0), 1 / tl.sqrt(tl.load(place + channels, inside, 1.0) + eps)
    if AFFINE:
        w = tl.load(weight + channel, inside, 0.0).to(WIDE)
        b = tl.load(bias + channel, inside, 0.0).to(WIDE)
    else:
        w, b = tl.full(m.shape, 1.0, WIDE), tl.full(m.shape, 0.0, WIDE)
    return m[None, :], s[None, :], w[None, :], b[None, :]


@triton.jit(**ANY)
def _moments(
    x, parts, rows, channels, chunks, tiles,
    LAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of each chunk: tiles combined as Chan et al. do."""
    _, at, step, channel, begin, end = _first(rows, channels, chunks, tiles, LAST, ROWS, COLUMNS)
    inside, row = channel < channels, tl.arange(0, ROWS)
    mean, squares = tl.zeros([COLUMNS], WIDE), tl.zeros([COLUMNS], WIDE)
    for start in range(begin, end, ROWS):
        mask = (start + row < end)[:, None] & inside[None, :]
        values = tl.load(x + at, mask, 0.0).to(WIDE)
        done = start - begin + tl.zeros([COLUMNS], WIDE)
        count = tl.minimum(end - start, ROWS) + tl.zeros([COLUMNS], WIDE)
        tile_mean = tl.sum(values, 0) / count
        centred = tl.where(mask, values - tile_mean[None, :], 0.0)
        shift = tile_mean - mean
        mean += shift * (count / (done + count))
        squares += tl.sum(centred * centred, 0) + shift * shift * (done * count / (done + count))
        at += step
    place = parts + tl.program_id(0) * 2 * channels + channel
    tl.store(place, mean, inside)
    tl.store(place + channels, squares, inside)


@triton.jit(**ANY)
def _summed(
    dy, x, y, dz, parts, stats, weight, bias, rows, channels, chunks, tiles, per_group,
    slope: tl.constexpr, eps: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    WIDE: tl.constexpr, AFFINE: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Sums over each chunk of dz and dz times the normalised map; dz itself where a residual is."""
    unit, at, step, channel, begin, end = _first(rows, channels, chunks, tiles, LAST, ROWS, COLUMNS)
    inside, row = channel < channels, tl.arange(0, ROWS)
    m, s, w, b = _norm(stats, weight, bias, unit // per_group, channel, channels, eps, WIDE, AFFINE)
    of_dz, of_both = tl.zeros([COLUMNS], WIDE), tl.zeros([COLUMNS], WIDE)
    for start in range(begin, end, ROWS):
        mask = (start + row < end)[:, None] & inside[None, :]
        normal = (tl.load(x + at, mask, 0.0).to(WIDE) - m) * s
        gradient = tl.load(dy + at, mask, 0.0).to(WIDE)
        if RESIDUAL:
            gradient = tl.where(tl.load(y + at, mask, 0.0) > 0, gradient, gradient * slope)
            tl.store(dz + at, gradient, mask)
        else:
            gradient = tl.where(normal * w + b > 0, gradient, gradient * slope)
        of_dz += tl.sum(gradient, 0)
        of_both += tl.sum(gradient * normal, 0)
        at += step
    place = parts + tl.program_id(0) * 2 * channels + channel
    tl.store(place, of_dz, inside)
    tl.store(place + channels, of_both, inside)


@triton.jit(**ANY)
def _merged(
    parts, merged, noted, rows, channels, chunks, chunk, per_group, stride,
    PARTS: tl.constexpr, COLUMNS: tl.constexpr, MOMENTS: tl.constexpr, NOTED: tl.constexpr,
):  # fmt: skip
    """Each group's means and variances if these are ``MOMENTS``, else sums; ``noted``: means and unbiased variances."""
    group, channel = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside, count = channel < channels, per_group * chunks
    part = tl.arange(0, PARTS)
    a, b = tl.zeros([COLUMNS], parts.dtype.element_ty), tl.zeros([COLUMNS], parts.dtype.element_ty)
    for start in range(0, count, PARTS):
        mask = (start + part < count)[:, None] & inside[None, :]
        place = parts + (group * count + start + part)[:, None] * 2 * channels + channel[None, :]
        values = tl.load(place, mask, 0.0)
        if MOMENTS:
            values *= tl.minimum(chunk, rows - (start + part) % chunks * chunk)[:, None].to(values.dtype)
        a += tl.sum(values, 0)
        b += tl.sum(tl.load(place + channels, mask, 0.0), 0)
    if MOMENTS:
        total = rows * per_group + tl.zeros([COLUMNS], a.dtype)
        a /= total
        for start in range(0, count, PARTS):
            mask = (start + part < count)[:, None] & inside[None, :]
            place = parts + (group * count + start + part)[:, None] * 2 * channels + channel[None, :]
            centred = tl.where(mask, tl.load(place, mask, 0.0) - a[None, :], 0.0)
            held = tl.minimum(chunk, rows - (start + part) % chunks * chunk)[:, None].to(a.dtype)
            b += tl.sum(centred * centred * held, 0)
        if NOTED:
            tl.store(noted + group * stride + channel, a, inside)
            tl.store(noted + group * stride + channels + channel, b / (total - 1), inside)
        b /= total
    place = merged + group * 2 * channels + channel
    tl.store(place, a, inside)
    tl.store(place + channels, b, inside)


@triton.jit(**ANY)
def _applied(
    x, residual, y, stats, weight, bias, rows, channels, chunks, tiles, per_group,
    slope: tl.constexpr, eps: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    WIDE: tl.constexpr, AFFINE: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """The normalised, activated map."""
    unit, at, step, channel, begin, end = _first(rows, channels, chunks, tiles, LAST, ROWS, COLUMNS)
    inside, row = channel < channels, tl.arange(0, ROWS)
    m, s, w, b = _norm(stats, weight, bias, unit // per_group, channel, channels, eps, WIDE, AFFINE)
    for start in range(begin, end, ROWS):
        mask = (start + row < end)[:, None] & inside[None, :]
        z = (tl.load(x + at, mask, 0.0).to(WIDE) - m) * s * w + b
        if RESIDUAL:
            z += tl.load(residual + at, mask, 0.0).to(WIDE)
        tl.store(y + at, tl.where(z > 0, z, z * slope), mask)
        at += step


@triton.jit(**ANY)
def _differentiated(
    dz, x, dx, stats, weight, bias, sums, rows, channels, chunks, tiles, per_group, values,
    slope: tl.constexpr, eps: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    WIDE: tl.constexpr, AFFINE: tl.constexpr,
):  # fmt: skip
    """The gradient of the map: w · s · (dz - Σ dz / n - z · Σ dz z / n)."""
    unit, at, step, channel, begin, end = _first(rows, channels, chunks, tiles, LAST, ROWS, COLUMNS)
    inside, row = channel < channels, tl.arange(0, ROWS)
    group = unit // per_group
    m, s, w, b = _norm(stats, weight, bias, group, channel, channels, eps, WIDE, AFFINE)
    place = sums + group * 2 * channels + channel
    first = (tl.load(place, inside, 0.0) / values)[None, :]
    second = (tl.load(place + channels, inside, 0.0) / values)[None, :]
    for start in range(begin, end, ROWS):
        mask = (start + row < end)[:, None] & inside[None, :]
        normal = (tl.load(x + at, mask, 0.0).to(WIDE) - m) * s
        gradient = tl.load(dz + at, mask, 0.0).to(WIDE)
        gradient = tl.where(normal * w + b > 0, gradient, gradient * slope)
        tl.store(dx + at, w * s * (gradient - first - normal * second), mask)
        at += step
