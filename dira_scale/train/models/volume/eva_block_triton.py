"""The kernels of ``eva_block.py`` on GPUs, in Triton, by name. They compute in float32 or wider, and no kernel adds
atomically, so two runs are equal. For a map that is None other machine code is made, without it."""

# mypy: disallow-untyped-defs=False
# Triton gives annotations of kernels a meaning of its own.
from typing import Any

import triton
import triton.language as tl
from torch import Tensor, float64


def launch(kernel: str, maps: list[Tensor | None], programs: int, width: int, *numbers: Any) -> None:
    """Run ``kernel`` on ``maps`` of rows of ``width`` values; the last one has the type that is computed in."""
    block, last = triton.next_power_of_2(width), maps[-1]
    wide = tl.float64 if last is not None and last.dtype == float64 else tl.float32
    shape = {"BLOCK": block, "WIDE": wide, "num_warps": min(max(block // 256, 1), 16)}
    globals()[f"_{kernel}"][(programs,)](*maps, width, *numbers, **shape)


@triton.jit
def _rows(x, y, gamma, weight, bias, total, z, stats, width, eps, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """LayerNorm of a row of x, x + gamma · y (stored) or silu(x) · y, with its mean and 1 / deviation."""
    row, column = tl.program_id(0), tl.arange(0, BLOCK)
    at, inside = row.to(tl.int64) * width + column, column < width
    value = tl.load(x + at, inside, 0.0).to(WIDE)
    if gamma is not None:
        value += tl.load(gamma + column, inside, 0.0).to(WIDE) * tl.load(y + at, inside, 0.0).to(WIDE)
        tl.store(total + at, value, inside)
    elif y is not None:
        value *= tl.sigmoid(value) * tl.load(y + at, inside, 0.0).to(WIDE)
    if weight is not None:
        mean = tl.sum(value, 0) / width
        centred = tl.where(inside, value - mean, 0.0)
        scale = 1 / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
        factor = scale * tl.load(weight + column, inside, 0.0).to(WIDE)
        tl.store(z + at, centred * factor + tl.load(bias + column, inside, 0.0).to(WIDE), inside)
        tl.store(stats + 2 * row, mean)
        tl.store(stats + 2 * row + 1, scale)


@triton.jit
def _rows_gradient(
    ds, dz, dz2, dz3, s, y, gamma, weight, stats, dx, dy, parts, width, rows, BLOCK: tl.constexpr, WIDE: tl.constexpr
):
    """Gradients of rows, and of gamma, weight and bias by a program's rows; ``s``: x, or the sum in its place."""
    column, first, step = tl.arange(0, BLOCK), tl.program_id(0), tl.num_programs(0)
    at, inside = first.to(tl.int64) * width + column, column < width
    of_gamma, of_weight, of_bias = tl.zeros([BLOCK], WIDE), tl.zeros([BLOCK], WIDE), tl.zeros([BLOCK], WIDE)
    for row in range(first, rows, step):
        gradient = tl.zeros([BLOCK], WIDE)
        if ds is not None:
            gradient += tl.load(ds + at, inside, 0.0).to(WIDE)
        if y is not None:
            other = tl.load(y + at, inside, 0.0).to(WIDE)
        if s is not None:
            value = tl.load(s + at, inside, 0.0).to(WIDE)
            if y is not None and gamma is None:
                gate, share = value, tl.sigmoid(value)
                value = gate * share * other
            scale = tl.load(stats + 2 * row + 1)
            normal = tl.where(inside, (value - tl.load(stats + 2 * row)) * scale, 0.0)
            dnormal = tl.load(dz + at, inside, 0.0).to(WIDE)
            if dz2 is not None:
                dnormal += tl.load(dz2 + at, inside, 0.0).to(WIDE)
            if dz3 is not None:
                dnormal += tl.load(dz3 + at, inside, 0.0).to(WIDE)
            of_weight += dnormal * normal
            of_bias += dnormal
            dnormal *= tl.load(weight + column, inside, 0.0).to(WIDE)
            gradient += scale * (dnormal - tl.sum(dnormal, 0) / width - normal * (tl.sum(dnormal * normal, 0) / width))
            if y is not None and gamma is None:
                tl.store(dy + at, gradient * gate * share, inside)
                gradient *= other * share * (1 + gate * (1 - share))
            tl.store(dx + at, gradient, inside)
        if gamma is not None:
            of_gamma += gradient * other
            tl.store(dy + at, gradient * tl.load(gamma + column, inside, 0.0).to(WIDE), inside)
        at += step.to(tl.int64) * width
    place = parts + first * 3 * width + column
    tl.store(place, of_gamma, inside)
    tl.store(place + width, of_weight, inside)
    tl.store(place + 2 * width, of_bias, inside)


@triton.jit
def _rotation(x, rope, turned, width, tokens, prefix, of_sample, head, sign, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Each two channels of a row, turned by their angle; ``of_sample``: rows of sines that each sample has, or 0."""
    row, column, pair = tl.program_id(0), tl.arange(0, BLOCK), 2 * tl.arange(0, BLOCK // 2)
    at, inside = row.to(tl.int64) * width + column, column < width
    angle = rope + (row // tokens * of_sample + row % tokens - prefix) * 2 * head + pair % head
    turns = (pair < width) & (row % tokens >= prefix)
    sine, cosine = tl.load(angle, turns, 0.0).to(WIDE) * sign, tl.load(angle + head, turns, 1.0).to(WIDE)
    first, second = tl.split(tl.reshape(tl.load(x + at, inside, 0.0).to(WIDE), [BLOCK // 2, 2]))
    tl.store(turned + at, tl.interleave(first * cosine - second * sine, second * cosine + first * sine), inside)
