"""EVA-02's blocks by kernels against timm's own, in float64 by Triton's interpreter; what a planner counts of them."""

import copy
import sys
from collections import Counter

import pytest
import torch
from harness import INTERPRETED, finish
from needs import need_extra
from timm.layers import build_rotary_pos_embed
from timm.models.eva import EvaBlock
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from dira_scale.fleet.forecast.ledger import Ledger
from dira_scale.fleet.forecast.network import without_memory
from dira_scale.train.engine.step import one_order
from dira_scale.train.models.volume import eva_block
from dira_scale.train.models.volume.eva_block import FusedBlock, FusedNorm


def pair(dim, heads, registers, grid=(2, 1, 3)):
    """Our block, timm's with its weights and arguments, and sines and cosines of a ``grid``."""
    torch.manual_seed(0)
    ours = FusedBlock(dim, heads, registers)
    for parameter in ours.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    timms, kinds = copy.deepcopy(ours), {FusedBlock: EvaBlock, FusedNorm: nn.LayerNorm}
    for layer in timms.modules():
        layer.__class__ = kinds.get(type(layer), type(layer))
    return ours, timms, torch.cat(build_rotary_pos_embed([*grid], dim=dim // heads * 2 // 3, in_pixels=False), -1)


def ends(forward, block, x, rope, dy):
    y = forward(x, rope)
    return y.detach(), *torch.autograd.grad(y, [x, *block.parameters()], dy)


def compare():
    """Each program has several rows; widths are no powers of two; the stream's layout is a convolution's."""
    eva_block.PARTS = 4
    for dim, heads, registers, left in ((24, 2, 0, None), (36, 3, 3, torch.tensor([[0, 2, 5], [1, 2, 3]]))):
        ours, timms, rope = pair(dim, heads, registers)
        rope = rope if left is None else rope[left][:, None]
        x, dy = torch.randn(2, dim, 2, registers + rope.shape[-2], dtype=torch.float64).permute(0, 2, 3, 1)
        given = x.requires_grad_(), rope, dy
        right = ends(timms.double(), timms, *given)
        for forward in (ours.double().fused, lambda *to, ours=ours: checkpoint(ours.fused, *to, use_reentrant=False)):
            for a, b in zip(ends(forward, ours, *given), right, strict=True):
                assert_close(a, b, rtol=1e-11, atol=1e-12)
    compared = [*eva_block.compared(torch.device("cpu"), tokens=5)]
    assert len(compared) == len(right) + 2
    for a, b in compared:
        assert float((a - b).abs().max() / b.abs().max()) < (1e-12 if a.dtype == torch.float64 else 0.01)


def test_in_float64_the_kernels_are_timms_block():
    need_extra("triton")
    finish([sys.executable, "-c", f"{INTERPRETED}from train.models.test_eva_block import compare\ncompare()"])


POINTERS = {"gamma", "weight", "bias", "stats", "parts", "rope"}  # and in 16 bits all maps


@pytest.mark.parametrize(
    ("kernel", "without"),
    [
        *[("_rows", without) for without in ("", "y gamma", "gamma", "weight bias")],
        *[("_rows_gradient", without) for without in ("dz3", "y gamma", "ds gamma", "dz dz2 dz3 s weight")],
        ("_rotation", ""),
    ],
)
def test_the_kernels_compile_to_a_gpus_machine_code(kernel, without):
    need_extra("triton")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dira_scale.train.models.volume import eva_block_triton as kernels

    made, fixed = getattr(kernels, kernel), dict.fromkeys(without.split()) | {"BLOCK": 1024, "WIDE": kernels.tl.float32}
    counts = dict.fromkeys(("width", "rows", "tokens", "prefix", "of_sample", "head", "sign"), "i32") | {"eps": "fp32"}
    others = {name: "*fp32" if name in POINTERS else "*bf16" for name in made.arg_names} | counts
    kinds = {name: "constexpr" if name in fixed else others[name] for name in made.arg_names}
    source = ASTSource(made, kinds, {(made.arg_names.index(name),): value for name, value in fixed.items()})
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


@pytest.mark.gpu
def test_a_gpu_uses_the_kernels_and_they_repeat(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = torch.device("cuda")
    assert eva_block.usable(device)
    ours, timms, rope = (each.to(device) for each in pair(864, 12, 4, (12, 12, 12)))
    x, dy = torch.randn(2, 2, 1732, 864, device=device)
    with torch.autocast("cuda", torch.bfloat16), one_order(True):
        right, once, again = (ends(block, block, x.requires_grad_(), rope, dy) for block in (timms, ours, ours))
    assert all(map(torch.equal, once, again))
    for a, b in zip(once[:2], right, strict=False):
        assert float((a - b).abs().max() / b.abs().max()) < 0.03


def test_a_device_without_the_kernels_is_told_once(caplog):
    eva_block.usable.cache_clear()
    assert not eva_block.usable(torch.device("cpu")) and not eva_block.usable(torch.device("cpu"))
    assert caplog.text.count("transformers of volumes: torch's own operations are used") == 1
    eva_block.usable.cache_clear()


def test_elsewhere_it_is_timms_forward_bit_for_bit():
    ours, timms, rope = pair(36, 3, 3)
    x, dy = torch.randn(2, 2, 9, 36)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            both = (ends(block, block, x.requires_grad_(), rope, dy) for block in (ours, timms))
            assert all(map(torch.equal, *both))


def test_a_planner_counts_each_map_once():
    """Bytes in 16 bits of a stream in 32, by all n values of the tokens and m of the MLP's channels."""
    mode, seen = FakeTensorMode(), Counter()

    class Moved(Ledger):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            before = self.work.others
            out = super().__torch_dispatch__(func, types, args, kwargs)
            seen[func.namespace] += self.work.others - before
            return out

    with torch.device("meta"):
        block = FusedBlock(432, 6, 0)
    without_memory(block, mode, channels_last=False)
    n, m = 64 * 8192 * 432, 64 * 8192 * 1152
    with mode, Moved([]) as ledger, torch.autocast("cpu", torch.bfloat16):
        x = torch.empty(64, 8192, 432).requires_grad_()
        y = block(x, torch.empty(8192, 144))
        forward = seen["dira_scale"]
        y.backward(torch.empty_like(y))
    # Norms with a sum, without and of heads; two rotations; the last sum; SwiGLU with its norm.
    assert forward == pytest.approx((12 + 6 + 4 + 8 + 10) * n + 6 * m, rel=0.01)
    assert seen["dira_scale"] - forward == pytest.approx((20 + 18 + 6 + 8 + 8) * n + 10 * m, rel=0.01)
    assert seen["aten"] == pytest.approx(8 * n + 4 * m, rel=0.02)  # six biases' gradients
    assert not ledger.work.norms
