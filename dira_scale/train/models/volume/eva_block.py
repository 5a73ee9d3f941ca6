"""timm's blocks of EVA-02 (Fang et al. 2023), in which all that lies between two products takes one pass over memory.

Torch has an operation for each cast, factor and addition, and one for each sum of gradients where a map is read several
times, and all of them move whole maps. So GPUs run kernels of ours (``eva_block_triton.py``), which :func:`usable`
tries first, and all else runs timm's forward. Tensors without memory, by which a run is planned, count as kernels.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from etils.epy import lazy_imports
from timm.models.eva import EvaBlock
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from dira_scale.base.machine.kernels import work
from dira_scale.train.models.norm_act import NARROW

with lazy_imports():
    from dira_scale.train.models.volume import eva_block_triton  # Triton comes with torch's builds for GPUs

MLP_RATIO = 4 * 2 / 3  # SwiGLU has three matrices where an MLP of four times the width has two
LAYER_SCALE = 0.1  # at the start (Primus, sec. 4)
Given = Tensor | None
PARTS = 528  # of sums over rows, at most: 4 for each processor of an H200, and as many elsewhere for the same sums


class FusedBlock(EvaBlock):
    """[b, n, dim] -> [b, n, dim]; the first ``registers`` tokens have no rotary position."""

    def __init__(self, dim: int, heads: int, registers: int) -> None:
        super().__init__(
            dim, heads, qkv_fused=False, mlp_ratio=MLP_RATIO, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True,
            num_prefix_tokens=registers, init_values=LAYER_SCALE, norm_layer=FusedNorm,
        )  # fmt: skip

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """``rope``: sines and cosines of patches, [n, 2 channels of a head] or [b, 1, n, 2 channels of a head]."""
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or x.dtype not in NARROW
        fuses = not traced and (isinstance(x, FakeTensor) or (x.is_cuda and usable(x.device)))
        return self.fused(x, rope) if fuses else super().forward(x, rope)

    def fused(self, x: Tensor, rope: Tensor) -> Tensor:
        """As timm's ``forward``, by kernels; differentiable once."""
        attn, mlp = self.attn, self.mlp
        x, *normal = self.norm1(x, uses=3)
        q, k, v = (part(z) for part, z in zip((attn.q_proj, attn.k_proj, attn.v_proj), normal, strict=True))
        parts = *(_Rotation.apply(part, rope, attn.num_prefix_tokens, 1) for part in (q, k)), v
        q, k, v = (part.unflatten(2, (attn.num_heads, -1)).transpose(1, 2) for part in parts)
        _, y = attn.norm(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), uses=1)
        x, first, second = self.norm2(x, attn.proj(y), self.gamma_1, uses=2)
        _, y = mlp.norm(mlp.fc1_g(first), mlp.fc1_x(second), uses=1)
        return _RowPass.apply(x, mlp.fc2(y), self.gamma_2, None, None, 0.0, 0)[0]


class FusedNorm(nn.LayerNorm):
    """LayerNorm of maps [..., dim]; with ``uses``, of ``x``, x + ``gamma`` · ``y`` or, without gamma, silu(x) · y.

    With ``uses`` it returns x or that sum first, then the normalised map for each use, in autocast's type.
    """

    def forward(self, x: Tensor, y: Given = None, gamma: Given = None, uses: int = 0) -> Any:
        return _RowPass.apply(x, y, gamma, self.weight, self.bias, self.eps, uses) if uses else super().forward(x)


class _RowPass(torch.autograd.Function):
    """:class:`FusedNorm` with ``uses`` by kernels; without weight and bias the sum alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Given, gamma: Given, weight: Given, bias: Given, eps: float, uses: int
    ) -> tuple[Tensor, ...]:
        x, y, device = x.contiguous(), None if y is None else y.contiguous(), x.device.type
        total = x if gamma is None else torch.empty_like(x, dtype=torch.promote_types(x.dtype, gamma.dtype))
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        z = x.new_empty(x.shape if uses else 0, dtype=kind)
        stats = x.new_empty(*x.shape[:-1], 2, dtype=torch.promote_types(x.dtype, torch.float32))
        made = [x.new_empty(0) if gamma is None else total, z, stats]
        one_pass("rows", [x, y, gamma, weight, bias], made, stats.numel() // 2, x.shape[-1], eps)
        ctx.save_for_backward(total if uses else None, y, gamma, weight, stats)
        ctx.set_materialize_grads(False)
        return total, *(z.view_as(z) for _ in range(uses))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Given) -> tuple[Given, ...]:
        total, y, gamma, weight, stats = ctx.saved_tensors
        dtotal, *dz = (each if each is None else each.contiguous() for each in (*gradients, None, None, None)[:4])
        dx, dy = (stats.new_empty(0) if each is None else torch.empty_like(each) for each in (total, y))
        rows, width = stats.numel() // 2, (y if total is None else total).shape[-1]
        parts = stats.new_empty(min(PARTS, rows), 3, width)
        given = [dtotal, *dz, total, y, gamma, weight, stats]
        one_pass("rows_gradient", given, [dx, dy, parts], len(parts), width, rows)
        sums = [None if of is None else each for each, of in zip(parts.sum(0), (gamma, weight, weight), strict=True)]
        return dtotal if total is None else dx, None if y is None else dy, *sums, None, None


class _Rotation(torch.autograd.Function):
    """``x`` [b, n, dim], where after ``prefix`` tokens each two channels are turned by their angle times ``sign``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rope: Tensor, prefix: int, sign: int) -> Tensor:
        ctx.save_for_backward(rope)
        ctx.about = prefix, -sign
        (samples, tokens, width), turned = x.shape, torch.empty_like(x, memory_format=torch.contiguous_format)
        numbers = tokens, prefix, tokens - prefix if rope.dim() == 4 else 0, rope.shape[-1] // 2, sign
        one_pass("rotation", [x.contiguous(), rope], [turned], samples * tokens, width, *numbers)
        return turned

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Given, ...]:
        return _Rotation.apply(dx, *ctx.saved_tensors, *ctx.about), None, None, None


def one_pass(kernel: str, given: Sequence[Given], made: Sequence[Tensor], *numbers: Any) -> None:
    """Run a ``kernel`` that reads ``given`` and writes ``made``; the first ``numbers`` are its programs and a row's
    values."""
    if isinstance(made[0], FakeTensor):
        torch.ops.dira_scale.one_pass(given, made)
    else:
        eva_block_triton.launch(kernel, [*given, *made], *numbers)


# What a planner counts; returns a tensor without values, as of an operation with a result each argument counts once.
torch.library.define("dira_scale::one_pass", "(Tensor?[] given, Tensor(a!)[] made) -> Tensor")
torch.library.register_fake("dira_scale::one_pass", lambda given, made: made[0].new_empty(0))


@cache
def usable(device: torch.device) -> bool:
    """Return whether the kernels work on ``device``."""
    return work("transformers of volumes", device, lambda: compared(device))


def compared(device: torch.device, tokens: int = 200) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield results and gradients of a block by kernels and by timm; in 16 bits, which both round, of ``x`` alone."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        block = FusedBlock(48, 2, 1)
    for parameter in block.to_empty(device=device).parameters():
        parameter.data.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
    x, dy = torch.randn(2, 3, tokens, 48, generator=generator).to(device)
    angles = torch.linspace(0, 99, 12 * (tokens - 1), device=device).view(-1, 12).repeat_interleave(2, 1)
    for dtype in (torch.float64, torch.bfloat16):
        wide = torch.promote_types(dtype, torch.float32)
        given = x.to(wide).requires_grad_(), torch.cat([angles.sin(), angles.cos()], 1)
        with torch.autocast(device.type, dtype, enabled=wide != dtype):
            ends = block.to(wide).fused(*given), EvaBlock.forward(block, *given)
        of = given[0], *(block.parameters() if wide == dtype else ())
        results = [[y.detach(), *torch.autograd.grad(y, of, dy.to(wide))] for y in ends]
        yield from ((a.to(dtype), b.to(dtype)) for a, b in zip(*results, strict=True))
