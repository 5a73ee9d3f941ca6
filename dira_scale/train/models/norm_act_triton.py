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

# On any GPU a kernel has at most so many programs, so that sums are the same. An H200 runs 528 that sum at once: four
# on a multiprocessor, if a thread has 128 registers. The assembler is told this limit, and then loads early.
PROGRAMS = {"_moments": 512, "_summed": 512, "map": 8192}
REGISTERS = 128
TILES = {"_moments": (8192, 8192), "_summed": (4096, 4096), "map": (8192, 4096)}  # bytes: channels last, or not
MOST = 64  # channels of a tile, where channels are last
PARTS, COLUMNS = 128, 8  # of a tile of partial sums
KINDS = 4096  # of maps whose launches are kept
# Counts whose divisors a kernel has no use for: by these no other machine code is made.
ANY = {"do_not_specialize": ["chunks", "tiles", "chunk", "per_group", "values", "groups", "length"]}


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
        tile = TILES[purpose][not last] // dtype.itemsize // columns
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

    def merged(self, groups: int, length: int = 0, **more: bool) -> KernelLaunch:
        """Return the launch that merges the two values of each chunk into a group's. If a vector of ``length`` notes
        their averages, a program takes all groups."""
        together = triton.next_power_of_2(groups) if length else 1
        grid, chunk = (1 if length else groups, -(-self.channels // COLUMNS)), self.tiles * self.tile[0]
        counts = self.rows, self.channels, self.chunks, chunk, self.units // groups, groups, length
        shape = {"GROUPS": together, "PARTS": min(PARTS, max(1, 8 * PARTS // together)), "COLUMNS": COLUMNS}
        return KernelLaunch(_merged, grid, *counts, **shape, NOTED=length > 0, **more)


MapKind = tuple[torch.Size, torch.dtype, torch.device, bool]  # of a map; whether channels are last


def norm_act_stats(x: Tensor, groups: int, pending: Tensor | None) -> Tensor:
    notes = (None, 0) if pending is None else (pending.dtype, len(pending))
    programs, wide, moments, merged = _sums("_moments", _kind(x), groups, *notes)
    parts = x.new_empty(programs, 2, x.shape[1], dtype=wide)
    moments(x, parts)
    stats = x.new_empty(groups, 2, x.shape[1], dtype=wide)
    merged(parts, stats, stats if pending is None else pending)
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
    fixed = {"slope": slope, "eps": eps, "AFFINE": weight is not None, "RESIDUAL": y is not None}
    affine = None if weight is None else weight.dtype
    programs, wide, summed, merged = _sums("_summed", _kind(x), len(stats), affine, **fixed)
    parts = x.new_empty(programs, 2, x.shape[1], dtype=wide)
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
def _sums(
    name: str, kind: MapKind, groups: int, other: torch.dtype | None, length: int = 0, **fixed: Any
) -> tuple[int, torch.dtype, KernelLaunch, KernelLaunch]:
    cut, wide = MapDivision.of(kind, groups, name), torch.promote_types(kind[1], torch.float32)
    counts = *cut.sizes, cut.units // groups
    launch = KernelLaunch(globals()[name], cut.grid, *counts, **cut.shape, **fixed, maxnreg=REGISTERS)
    return cut.grid[0], wide, launch, cut.merged(groups, length, MOMENTS=name == "_moments")


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
    """Mean, 1 / deviation, this times the weight, and bias of a tile's channels [1, COLUMNS]."""
    inside = channel < channels
    place = stats + group * 2 * channels + channel
    m, s = tl.load(place, inside, 0.0), 1 / tl.sqrt(tl.load(place + channels, inside, 1.0) + eps)
    if AFFINE:
        w = tl.load(weight + channel, inside, 0.0).to(WIDE)
        b = tl.load(bias + channel, inside, 0.0).to(WIDE)
    else:
        w, b = tl.full(m.shape, 1.0, WIDE), tl.full(m.shape, 0.0, WIDE)
    return m[None, :], s[None, :], (s * w)[None, :], b[None, :]


@triton.jit(**ANY)
def _moments(
    x, parts, rows, channels, chunks, tiles, per_group,
    LAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of each chunk. Sums are of differences from the first tile's mean, so that a
    large mean costs no accuracy. Each place of a tile has its own; reductions, for which a block's threads wait for one
    another, come at the end."""
    _, at, step, channel, begin, end = _first(rows, channels, chunks, tiles, LAST, ROWS, COLUMNS)
    inside, row, count = channel < channels, tl.arange(0, ROWS), end - begin
    first = tl.load(x + at, (begin + row < end)[:, None] & inside[None, :], 0.0).to(WIDE)
    near = tl.sum(first, 0) / tl.minimum(count, ROWS)
    of_values, of_squares = tl.zeros([ROWS, COLUMNS], WIDE), tl.zeros([ROWS, COLUMNS], WIDE)
    for start in range(begin, end, ROWS):
        mask = (start + row < end)[:, None] & inside[None, :]
        shifted = tl.where(mask, tl.load(x + at, mask, 0.0).to(WIDE) - near[None, :], 0.0)
        of_values += shifted
        of_squares += shifted * shifted
        at += step
    total = tl.sum(of_values, 0)
    place = parts + tl.program_id(0) * 2 * channels + channel
    tl.store(place, near + total / count, inside)
    tl.store(place + channels, tl.sum(of_squares, 0) - total * (total / count), inside)


@triton.jit(**ANY)
def _summed(
    dy, x, y, dz, parts, stats, weight, bias, rows, channels, chunks, tiles, per_group,
    slope: tl.constexpr, eps: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    WIDE: tl.constexpr, AFFINE: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Sums over each chunk of dz and dz times the normalised map; dz itself where a residual is."""
    unit, at, step, channel, begin, end = _first(rows, channels, chunks, tiles, LAST, ROWS, COLUMNS)
    inside, row = channel < channels, tl.arange(0, ROWS)
    m, s, scale, b = _norm(stats, weight, bias, unit // per_group, channel, channels, eps, WIDE, AFFINE)
    of_dz, of_both = tl.zeros([ROWS, COLUMNS], WIDE), tl.zeros([ROWS, COLUMNS], WIDE)  # reduced once, at the end
    for start in range(begin, end, ROWS):
        mask = (start + row < end)[:, None] & inside[None, :]
        centred = tl.load(x + at, mask, 0.0).to(WIDE) - m
        gradient = tl.load(dy + at, mask, 0.0).to(WIDE)
        if RESIDUAL:
            gradient = tl.where(tl.load(y + at, mask, 0.0) > 0, gradient, gradient * slope)
            tl.store(dz + at, gradient, mask)
        else:
            gradient = tl.where(centred * scale + b > 0, gradient, gradient * slope)
        of_dz += gradient
        of_both += gradient * centred
        at += step
    place = parts + tl.program_id(0) * 2 * channels + channel
    tl.store(place, tl.sum(of_dz, 0), inside)
    tl.store(place + channels, tl.sum(of_both * s, 0), inside)


@triton.jit(**ANY)
def _merged(
    parts, merged, pending, rows, channels, chunks, chunk, per_group, groups, length, GROUPS: tl.constexpr,
    PARTS: tl.constexpr, COLUMNS: tl.constexpr, MOMENTS: tl.constexpr, NOTED: tl.constexpr,
):  # fmt: skip
    """Each group's means and variances if these are ``MOMENTS``, else sums. If ``NOTED``, the groups' averages, of
    unbiased variances, are added to ``pending``, and 1 to its other elements."""
    group, part = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS), tl.arange(0, PARTS)
    channel, count = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS), per_group * chunks
    inside = (group < groups)[:, None] & (channel < channels)[None, :]
    first = parts + (group[:, None, None] * count + part[None, :, None]) * 2 * channels + channel[None, None, :]
    values = tl.zeros([GROUPS, PARTS, COLUMNS], parts.dtype.element_ty)
    squares = tl.zeros([GROUPS, PARTS, COLUMNS], parts.dtype.element_ty)
    if MOMENTS:  # means count by their differences from the first
        near = tl.load(parts + group[:, None] * count * 2 * channels + channel[None, :], inside, 0.0)
    for start in range(0, count, PARTS):
        mask, place = (start + part < count)[None, :, None] & inside[:, None, :], first + start * 2 * channels
        value = tl.load(place, mask, 0.0)
        if MOMENTS:
            held = tl.minimum(chunk, rows - (start + part) % chunks * chunk)[None, :, None].to(value.dtype)
            shifted = tl.where(mask, value - near[:, None, :], 0.0)
            value = shifted * held
            squares += shifted * value
        values += value
        squares += tl.load(place + channels, mask, 0.0)
    a, b = tl.sum(values, 1), tl.sum(squares, 1)
    if MOMENTS:
        total = rows * per_group + tl.zeros([GROUPS, COLUMNS], a.dtype)
        b = tl.maximum(b - a * (a / total), 0.0)
        a = near + a / total
    if NOTED:
        some, after = channel < channels, 2 * channels + tl.arange(0, COLUMNS)
        place, more = pending + channel, (after < length) & (tl.program_id(1) == 0)
        tl.store(place, tl.load(place, some) + tl.sum(a, 0) / groups, some)
        place += channels
        tl.store(place, tl.load(place, some) + tl.sum(b / (total - 1), 0) / groups, some)
        tl.store(pending + after, tl.load(pending + after, more) + 1, more)
    if MOMENTS:
        b /= total
    place = merged + group[:, None] * 2 * channels + channel[None, :]
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
    m, _, scale, b = _norm(stats, weight, bias, unit // per_group, channel, channels, eps, WIDE, AFFINE)
    for start in range(begin, end, ROWS):
        mask = (start + row < end)[:, None] & inside[None, :]
        z = (tl.load(x + at, mask, 0.0).to(WIDE) - m) * scale + b
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
    m, s, scale, b = _norm(stats, weight, bias, group, channel, channels, eps, WIDE, AFFINE)
    place = sums + group * 2 * channels + channel
    first = (tl.load(place, inside, 0.0) / values)[None, :]
    second = (tl.load(place + channels, inside, 0.0) / values)[None, :] * s
    for start in range(begin, end, ROWS):
        mask = (start + row < end)[:, None] & inside[None, :]
        centred = tl.load(x + at, mask, 0.0).to(WIDE) - m
        gradient = tl.load(dz + at, mask, 0.0).to(WIDE)
        gradient = tl.where(centred * scale + b > 0, gradient, gradient * slope)
        tl.store(dx + at, scale * (gradient - first - centred * second), mask)
        at += step
