"""The kernels of ``kept_rows.py`` on GPUs, in Triton.

A program has one token at a time, whose values lie one after the other. No kernel adds atomically: sums over tokens are
of a program's own, and merged afterwards, so two runs are equal.
"""

# mypy: disallow-untyped-defs=False
# Triton gives annotations of kernels a meaning of its own.
import math
from functools import lru_cache

import torch
import triton
import triton.language as tl

from dira_scale.base.machine.kernels import KernelLaunch

WARP = 1024  # columns of a warp: its threads sum a row among themselves, from registers
ANY = {"do_not_specialize": ["count", "tokens"]}  # by whose divisors no other machine code is made


@lru_cache(4096)
def launch(
    name: str, shape: torch.Size, device: torch.device, group: int, kept: int, everything: bool, eps: float,
    programs: int, *kinds: torch.dtype,
) -> KernelLaunch:  # fmt: skip
    """The launch of a kernel on tensors of these ``kinds``, of which the first has this ``shape``: by so many
    ``programs``, or one for each token."""
    kernel, (samples, *inner, dim) = globals()[name], shape
    tokens, columns, of = math.prod(inner), triton.next_power_of_2(dim), group if everything else kept
    count = samples // group * of * tokens
    wide = tl.float64 if kinds[0] == torch.float64 else tl.float32
    fixed = {"eps": eps, "GROUP": group, "OF": of, "KEPT": kept, "DIM": dim, "COLUMNS": columns, "WIDE": wide}
    fixed = {key: value for key, value in fixed.items() if key in kernel.arg_names}
    return KernelLaunch(kernel, (programs or count, 1), count, tokens, **fixed, num_warps=max(1, columns // WARP))


@triton.jit
def _places(order, token, tokens, GROUP: tl.constexpr, OF: tl.constexpr, KEPT: tl.constexpr):
    """Return a token's place among all and among those kept, and whether it is. A group counts ``OF`` samples."""
    sample, within = token // tokens, token % tokens
    group, member = sample // OF, sample % OF
    whole = tl.load(order + group * GROUP + member) * tokens + within
    return whole, (group.to(tl.int64) * KEPT + member) * tokens + within, member < KEPT


@triton.jit
def _normal(values, inside, eps, DIM: tl.constexpr):
    """A row, normalised, and 1 / its deviation."""
    centred = tl.where(inside, values - tl.sum(values, 0) / DIM, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 0) / DIM + eps)
    return centred * scale, scale


@triton.jit(**ANY)
def normed(
    x, order, weight, bias, y, count, tokens, eps: tl.constexpr, GROUP: tl.constexpr, OF: tl.constexpr,
    KEPT: tl.constexpr, DIM: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """y: a token that is kept, normalised."""
    column = tl.arange(0, COLUMNS)
    inside = column < DIM
    whole, own, _ = _places(order, tl.program_id(0), tokens, GROUP, OF, KEPT)
    normal, _ = _normal(tl.load(x + whole * DIM + column, inside, 0.0).to(WIDE), inside, eps, DIM)
    w, b = tl.load(weight + column, inside, 0.0).to(WIDE), tl.load(bias + column, inside, 0.0).to(WIDE)
    tl.store(y + own * DIM + column, normal * w + b, inside)


@triton.jit(**ANY)
def norm_differentiated(
    dx, order, dy, x, weight, out, parts, count, tokens, eps: tl.constexpr, GROUP: tl.constexpr, OF: tl.constexpr,
    KEPT: tl.constexpr, DIM: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """out: dx, plus s · (w dy - mean(w dy) - z · mean(w dy z)) where z is normalised; parts: sums of dy z and dy."""
    column = tl.arange(0, COLUMNS)
    inside = column < DIM
    w = tl.load(weight + column, inside, 0.0).to(WIDE)
    of_both, of_dy = tl.zeros([COLUMNS], WIDE), tl.zeros([COLUMNS], WIDE)
    for token in range(tl.program_id(0), count, tl.num_programs(0)):
        whole, own, kept = _places(order, token, tokens, GROUP, OF, KEPT)
        values = tl.load(x + whole * DIM + column, inside & kept, 0.0).to(WIDE)
        d = tl.load(dy + own * DIM + column, inside & kept, 0.0).to(WIDE)  # 0 of those that are not kept
        other = tl.load(dx + whole * DIM + column, inside, 0.0).to(WIDE)
        normal, scale = _normal(values, inside, eps, DIM)
        of_both += d * normal
        of_dy += d
        d *= w
        d = scale * (d - tl.sum(d, 0) / DIM - normal * (tl.sum(d * normal, 0) / DIM))
        tl.store(out + whole * DIM + column, other + d, inside)
    place = parts + tl.program_id(0) * 2 * DIM + column
    tl.store(place, of_both, inside)
    tl.store(place + DIM, of_dy, inside)


@triton.jit(**ANY)
def added(
    x, order, y, gamma, out, count, tokens, GROUP: tl.constexpr, OF: tl.constexpr, KEPT: tl.constexpr,
    DIM: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """out: a token, plus gamma · y over the share that is kept, if it is."""
    column = tl.arange(0, COLUMNS)
    inside = column < DIM
    whole, own, kept = _places(order, tl.program_id(0), tokens, GROUP, OF, KEPT)
    scale = tl.load(gamma + column, inside, 0.0).to(WIDE) * (GROUP / KEPT)
    values = tl.load(x + whole * DIM + column, inside, 0.0).to(WIDE)
    values += tl.load(y + own * DIM + column, inside & kept, 0.0).to(WIDE) * scale
    tl.store(out + whole * DIM + column, values, inside)


@triton.jit(**ANY)
def add_differentiated(
    dx, order, y, gamma, dy, parts, count, tokens, GROUP: tl.constexpr, OF: tl.constexpr, KEPT: tl.constexpr,
    DIM: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """dy: dx · gamma over the share that is kept, of tokens that are; parts: sums of dx · y over it."""
    column = tl.arange(0, COLUMNS)
    inside = column < DIM
    scale = tl.load(gamma + column, inside, 0.0).to(WIDE) * (GROUP / KEPT)
    total = tl.zeros([COLUMNS], WIDE)
    for token in range(tl.program_id(0), count, tl.num_programs(0)):
        whole, own, _ = _places(order, token, tokens, GROUP, OF, KEPT)
        d = tl.load(dx + whole * DIM + column, inside, 0.0).to(WIDE)
        total += d * tl.load(y + own * DIM + column, inside, 0.0).to(WIDE)
        tl.store(dy + own * DIM + column, d * scale, inside)
    tl.store(parts + tl.program_id(0) * DIM + column, total * (GROUP / KEPT), inside)
