"""The kernels of ``norm_act.py`` on GPUs, in Triton: under the names and signatures of the operations there.

A map is taken as units of rows: channels last, a unit is a group of samples and its rows are all their pixels; else a
unit is a sample, whose channels lie one after the other. Each unit is cut into chunks of rows, so that few samples and
channels keep all of a GPU's processors busy. No kernel adds atomically, so two runs are equal.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = {"sums": 768, "map": 8192}  # that a kernel is cut into at most; on any GPU, so that sums are the same
TILE, MOST = 4096, 64  # values of a tile, and its channels at most, where channels are last
ROW = 2048  # values of a tile of one channel, where they are not
PARTS, COLUMNS = 128, 8  # of a tile of partial sums


@dataclass(frozen=True)
class Cut:
    """How a map is divided.

    Attributes:
        last: whether channels are last.
        units, rows, channels: of the map.
        tile: its rows and channels.
        chunks, chunk: of a unit, and rows of each but the last, a multiple of a tile's.
    """

    last: bool
    units: int
    rows: int
    channels: int
    tile: tuple[int, int]
    chunks: int
    chunk: int

    @classmethod
    def of(cls, x: Tensor, groups: int, kind: str) -> "Cut":
        last, channels = not x.is_contiguous(), x.shape[1]
        units = groups if last else len(x)
        rows = x.numel() // (units * channels)
        columns = min(MOST, triton.next_power_of_2(channels)) if last else 1
        tile = TILE // columns if last else ROW
        chunks = max(1, PROGRAMS[kind] // (units * -(-channels // columns)))
        chunk = -(-rows // (chunks * tile)) * tile
        return cls(last, units, rows, channels, (tile, columns), -(-rows // chunk), chunk)

    @property
    def grid(self) -> tuple[int, int]:
        return self.units * self.chunks, -(-self.channels // self.tile[1])

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return self.rows, self.channels, self.chunks, self.chunk

    @property
    def shape(self) -> dict[str, Any]:
        return {"LAST": self.last, "ROWS": self.tile[0], "COLUMNS": self.tile[1]}


def norm_act_stats(x: Tensor, groups: int, noted: Tensor | None) -> tuple[Tensor, Tensor]:
    cut = Cut.of(x, groups, "sums")
    parts = x.new_empty(2, cut.grid[0], cut.channels, dtype=_wide(x))
    _moments[cut.grid](x, parts, *cut.sizes, cut.grid[0], **cut.shape, WIDE=_triton(parts))
    mean, var = parts.new_empty(2, groups, cut.channels).unbind()
    notes = mean if noted is None else noted
    _merged[_columns(cut, groups)](
        parts, mean, var, notes, *cut.sizes, cut.units // groups, notes.stride(0),
        PARTS=PARTS, COLUMNS=COLUMNS, MOMENTS=True, NOTED=noted is not None,
    )  # fmt: skip
    return mean, var


def norm_act_apply(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None,
    slope: float, eps: float,
) -> Tensor:  # fmt: skip
    y, cut = torch.empty_like(x), Cut.of(x, len(mean), "map")
    _applied[cut.grid](
        x, x if residual is None else residual, y, *_given(mean, var, weight, bias), *cut.sizes,
        cut.units // len(mean), slope, eps, **cut.shape, WIDE=_triton(mean), AFFINE=weight is not None,
        RESIDUAL=residual is not None,
    )  # fmt: skip
    return y


def norm_act_sums(
    dy: Tensor, x: Tensor, y: Tensor | None, dz: Tensor | None, mean: Tensor, var: Tensor, weight: Tensor | None,
    bias: Tensor | None, slope: float, eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    cut, groups = Cut.of(x, len(mean), "sums"), len(mean)
    parts = mean.new_empty(2, cut.grid[0], cut.channels)
    _summed[cut.grid](
        dy, x, x if y is None else y, x if dz is None else dz, parts, *_given(mean, var, weight, bias), *cut.sizes,
        cut.units // groups, cut.grid[0], slope, eps, **cut.shape, WIDE=_triton(mean), AFFINE=weight is not None,
        RESIDUAL=y is not None,
    )  # fmt: skip
    of_dz, of_both = parts.new_empty(2, groups, cut.channels).unbind()
    _merged[_columns(cut, groups)](
        parts, of_dz, of_both, of_dz, *cut.sizes, cut.units // groups, 0,
        PARTS=PARTS, COLUMNS=COLUMNS, MOMENTS=False, NOTED=False,
    )  # fmt: skip
    return of_dz, of_both


def norm_act_gradient(
    dz: Tensor, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, of_dz: Tensor,
    of_both: Tensor, slope: float, eps: float,
) -> Tensor:  # fmt: skip
    dx, cut, groups = torch.empty_like(x), Cut.of(x, len(mean), "map"), len(mean)
    _differentiated[cut.grid](
        dz, x, dx, *_given(mean, var, weight, bias), of_dz, of_both, *cut.sizes, cut.units // groups,
        x.numel() // (groups * cut.channels), slope, eps, **cut.shape, WIDE=_triton(mean), AFFINE=weight is not None,
    )  # fmt: skip
    return dx


def _given(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, ...]:
    return mean, var, mean if weight is None else weight, mean if bias is None else bias


def _columns(cut: Cut, groups: int) -> tuple[int, int]:
    return groups, -(-cut.channels // COLUMNS)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _triton(like: Tensor) -> Any:
    return tl.float64 if like.dtype == torch.float64 else tl.float32


@triton.jit
def _first(rows, channels, chunks, chunk, LAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return a program's unit, where its first tile lies [ROWS, COLUMNS], how far the next one is, its channels, and
    the rows that it begins and ends at."""
    unit, begin = tl.program_id(0) // chunks, tl.program_id(0) % chunks * chunk
    channel, row = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS), begin + tl.arange(0, ROWS)
    if LAST:
        offsets, step = row.to(tl.int64)[:, None] * channels + channel[None, :], ROWS * channels
    else:
        offsets, step = row.to(tl.int64)[:, None] + channel.to(tl.int64)[None, :] * rows, ROWS
    return unit, unit.to(tl.int64) * rows * channels + offsets, step, channel, begin, tl.minimum(begin + chunk, rows)


@triton.jit
def _norm(
    mean, var, weight, bias, group, channel, channels, eps: tl.constexpr, WIDE: tl.constexpr, AFFINE: tl.constexpr
):
    """Mean, 1 / deviation, weight and bias of a tile's channels [1, COLUMNS]."""
    inside = channel < channels
    m = tl.load(mean + group * channels + channel, inside, 0.0)
    s = 1 / tl.sqrt(tl.load(var + group * channels + channel, inside, 1.0) + eps)
    if AFFINE:
        w = tl.load(weight + channel, inside, 0.0).to(WIDE)
        b = tl.load(bias + channel, inside, 0.0).to(WIDE)
    else:
        w, b = tl.full(m.shape, 1.0, WIDE), tl.full(m.shape, 0.0, WIDE)
    return m[None, :], s[None, :], w[None, :], b[None, :]


@triton.jit
def _moments(
    x, parts, rows, channels, chunks, chunk, count,
    LAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of each chunk: tiles combined as Chan et al. do."""
    _, at, step, channel, begin, end = _first(rows, channels, chunks, chunk, LAST, ROWS, COLUMNS)
    inside, row = channel < channels, tl.arange(0, ROWS)
    mean, squares = tl.zeros([COLUMNS], WIDE), tl.zeros([COLUMNS], WIDE)
    for start in range(begin, end, ROWS):
        mask = (start + row < end)[:, None] & inside[None, :]
        values = tl.load(x + at, mask, 0.0).to(WIDE)
        seen, new = start - begin + tl.zeros([COLUMNS], WIDE), tl.minimum(end - start, ROWS) + tl.zeros([COLUMNS], WIDE)
        its = tl.sum(values, 0) / new
        away = tl.where(mask, values - its[None, :], 0.0)
        far = its - mean
        mean += far * (new / (seen + new))
        squares += tl.sum(away * away, 0) + far * far * (seen * new / (seen + new))
        at += step
    place = parts + tl.program_id(0) * channels + channel
    tl.store(place, mean, inside)
    tl.store(place + count * channels, squares, inside)


@triton.jit
def _summed(
    dy, x, y, dz, parts, mean, var, weight, bias, rows, channels, chunks, chunk, per_group, count,
    slope: tl.constexpr, eps: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    WIDE: tl.constexpr, AFFINE: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Sums over each chunk of dz and dz times the normalised map; dz itself where a residual is."""
    unit, at, step, channel, begin, end = _first(rows, channels, chunks, chunk, LAST, ROWS, COLUMNS)
    inside, row = channel < channels, tl.arange(0, ROWS)
    m, s, w, b = _norm(mean, var, weight, bias, unit // per_group, channel, channels, eps, WIDE, AFFINE)
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
    place = parts + tl.program_id(0) * channels + channel
    tl.store(place, of_dz, inside)
    tl.store(place + count * channels, of_both, inside)


@triton.jit
def _merged(
    parts, first, second, noted, rows, channels, chunks, chunk, per_group, stride,
    PARTS: tl.constexpr, COLUMNS: tl.constexpr, MOMENTS: tl.constexpr, NOTED: tl.constexpr,
):  # fmt: skip
    """Each group's means and variances if these are ``MOMENTS``, else sums; ``noted``: means and unbiased variances."""
    group, channel = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside, own = channel < channels, per_group * chunks
    part, after = tl.arange(0, PARTS), tl.num_programs(0) * own * channels
    a, b = tl.zeros([COLUMNS], parts.dtype.element_ty), tl.zeros([COLUMNS], parts.dtype.element_ty)
    for start in range(0, own, PARTS):
        mask = (start + part < own)[:, None] & inside[None, :]
        place = parts + (group * own + start + part)[:, None] * channels + channel[None, :]
        its = tl.load(place, mask, 0.0)
        if MOMENTS:
            its *= tl.minimum(chunk, rows - (start + part) % chunks * chunk)[:, None].to(its.dtype)
        a += tl.sum(its, 0)
        b += tl.sum(tl.load(place + after, mask, 0.0), 0)
    if MOMENTS:
        total = rows * per_group + tl.zeros([COLUMNS], a.dtype)
        a /= total
        for start in range(0, own, PARTS):
            mask = (start + part < own)[:, None] & inside[None, :]
            place = parts + (group * own + start + part)[:, None] * channels + channel[None, :]
            away = tl.where(mask, tl.load(place, mask, 0.0) - a[None, :], 0.0)
            held = tl.minimum(chunk, rows - (start + part) % chunks * chunk)[:, None].to(a.dtype)
            b += tl.sum(away * away * held, 0)
        if NOTED:
            tl.store(noted + group * stride + channel, a, inside)
            tl.store(noted + group * stride + channels + channel, b / (total - 1), inside)
        b /= total
    tl.store(first + group * channels + channel, a, inside)
    tl.store(second + group * channels + channel, b, inside)


@triton.jit
def _applied(
    x, residual, y, mean, var, weight, bias, rows, channels, chunks, chunk, per_group,
    slope: tl.constexpr, eps: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    WIDE: tl.constexpr, AFFINE: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """The normalised, activated map."""
    unit, at, step, channel, begin, end = _first(rows, channels, chunks, chunk, LAST, ROWS, COLUMNS)
    inside, row = channel < channels, tl.arange(0, ROWS)
    m, s, w, b = _norm(mean, var, weight, bias, unit // per_group, channel, channels, eps, WIDE, AFFINE)
    for start in range(begin, end, ROWS):
        mask = (start + row < end)[:, None] & inside[None, :]
        z = (tl.load(x + at, mask, 0.0).to(WIDE) - m) * s * w + b
        if RESIDUAL:
            z += tl.load(residual + at, mask, 0.0).to(WIDE)
        tl.store(y + at, tl.where(z > 0, z, z * slope), mask)
        at += step


@triton.jit
def _differentiated(
    dz, x, dx, mean, var, weight, bias, of_dz, of_both, rows, channels, chunks, chunk, per_group, values,
    slope: tl.constexpr, eps: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    WIDE: tl.constexpr, AFFINE: tl.constexpr,
):  # fmt: skip
    """The gradient of the map: w · s · (dz - Σ dz / n - z · Σ dz z / n)."""
    unit, at, step, channel, begin, end = _first(rows, channels, chunks, chunk, LAST, ROWS, COLUMNS)
    inside, row = channel < channels, tl.arange(0, ROWS)
    group = unit // per_group
    m, s, w, b = _norm(mean, var, weight, bias, group, channel, channels, eps, WIDE, AFFINE)
    first = (tl.load(of_dz + group * channels + channel, inside, 0.0) / values)[None, :]
    second = (tl.load(of_both + group * channels + channel, inside, 0.0) / values)[None, :]
    for start in range(begin, end, ROWS):
        mask = (start + row < end)[:, None] & inside[None, :]
        normal = (tl.load(x + at, mask, 0.0).to(WIDE) - m) * s
        gradient = tl.load(dz + at, mask, 0.0).to(WIDE)
        gradient = tl.where(normal * w + b > 0, gradient, gradient * slope)
        tl.store(dx + at, w * s * (gradient - first - normal * second), mask)
        at += step
