"""The kernels of drop path's branches, run by Triton's interpreter on a CPU, against torch's operations."""

import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from harness import INTERPRETED, finish
from needs import need_extra
from timm.layers import LayerNorm
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from train.models import test_drop_path as blocks

from dira_scale.fleet.forecast.ledger import Ledger
from dira_scale.train.engine.parallel.recompute import checkpoint_activations
from dira_scale.train.models import kept_rows


def plainly(x, norm, branch, gamma, order, kept, own):
    """The formula, by torch's gradients."""
    rows = order[:, :kept].flatten()
    y = branch(F.layer_norm(x[rows], norm.normalized_shape, norm.weight, norm.bias, norm.eps)).to(x.dtype)
    return x.index_add(0, rows, order.shape[1] / kept * y * (1 if gamma is None else gamma))


def ends(by, shape, scaled, kept, own, dtype=torch.float64, narrow=None, device="cpu"):
    """The result, and the gradients of all that is learnt; ``narrow``: autocast's type."""
    torch.manual_seed(0)
    x, dy = torch.randn(2, *shape, dtype=dtype).to(device)
    norm, gamma = LayerNorm(shape[-1]), torch.randn(shape[-1], dtype=dtype) if scaled else None
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    norm, gamma = norm.to(device, dtype), gamma if gamma is None else gamma.to(device).requires_grad_()
    order = torch.rand(shape[0] // 16, 16).argsort() + torch.arange(0, shape[0], 16)[:, None]
    with torch.autocast(device, narrow, enabled=narrow is not None):
        x = (3 * x + 1).requires_grad_()
        y = by(x, norm, lambda y: y.to(narrow or dtype).sin(), gamma, order.to(device), kept, own)
    found = [
        y.detach(),
        *torch.autograd.grad(y, [x, *norm.parameters(), *([gamma] if scaled else [])], given := dy * 1),
    ]
    assert own or torch.equal(given, dy)
    return found


# Shape, LayerScale, how many of 16 are kept, whether the gradient may be overwritten.
CASES = [
    ((32, 2, 72), True, 11, False),
    ((16, 2, 384), True, 11, True),
    ((16, 1, 2, 768), False, 1, True),
    ((16, 8), True, 16, False),
]


def compare():
    kept_rows.PROGRAMS, kernels = 7, partial(kept_rows.added, fused=True)  # several tokens each, with remainders
    for case in CASES:
        ours, again, right = (ends(by, *case) for by in (kernels, kernels, plainly))
        assert all(map(torch.equal, ours, again))
        torch.testing.assert_close(ours, right, rtol=1e-11, atol=1e-11)
        given = *case, torch.float32, torch.float16  # the interpreter cuts bfloat16's digits off
        for found, right in zip(ends(kernels, *given), ends(plainly, *given), strict=True):
            assert found.dtype == torch.float32 and (found - right).norm() < 1e-3 * right.norm()
    blocks.ROWS = 16  # in whole blocks, also recomputed, no one reads again what is overwritten
    modules, dy = [blocks.block("vit") for _ in range(3)], blocks.rows().detach()
    checkpoint_activations(modules[2])
    right = blocks.trained(modules[0], blocks.rows())
    kept_rows.fuses = lambda *_: True
    found, again = (blocks.trained(module, blocks.rows()) for module in modules[1:])
    assert all(map(torch.equal, found, again))
    torch.testing.assert_close(found, right, rtol=1e-11, atol=1e-11)
    modules[1](blocks.rows()).backward(dy)
    assert torch.equal(dy, blocks.rows())


def test_the_kernels_are_the_formula():  # 10 s: the interpreter takes 4 ms for a token
    need_extra("triton")
    finish([sys.executable, "-c", f"{INTERPRETED}from train.models.test_kept_rows import compare\ncompare()"])


def test_the_kernels_compile_to_a_gpus_machine_code():
    """For an H100, as called for DINOv2's ViT-B in bf16."""
    need_extra("triton")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dira_scale.train.models import kept_rows_triton as kernels

    kinds = {"y": "*bf16", "dy": "*bf16", "order": "*i64", "count": "i32", "tokens": "i32"}
    given = {"eps": 1e-6, "GROUP": 16, "OF": 11, "KEPT": 11, "DIM": 768, "COLUMNS": 1024, "WIDE": kernels.tl.float32}
    for kernel in (kernels.normed, kernels.norm_differentiated, kernels.added, kernels.add_differentiated):
        fixed = {(place,): given[name] for place, name in enumerate(kernel.arg_names) if name in given}
        of = {name: "constexpr" if name in given else kinds.get(name, "*fp32") for name in kernel.arg_names}
        assert triton.compile(ASTSource(kernel, of, fixed), GPUTarget("cuda", 90, 32)).asm["cubin"], kernel


@pytest.mark.gpu
@pytest.mark.parametrize(("narrow", "bound"), [(None, 1e-5), (torch.bfloat16, 1e-2)])
def test_a_gpu_uses_the_kernels_and_they_repeat(narrow, bound):
    assert kept_rows.usable(torch.device("cuda"))
    given = (64, 257, 768), True, 11, False, torch.float32, narrow, "cuda"
    for right, once, again in zip(*(ends(by, *given) for by in (plainly, *2 * [kept_rows.added])), strict=True):
        assert torch.equal(once, again) and (once - right).norm() <= bound * right.norm()


@pytest.mark.parametrize(("own", "of_kept", "of_all"), [(False, 5.5, 4), (True, 7.5, 2)])
def test_the_planner_counts_what_the_kernels_read_and_write(monkeypatch, own, of_kept, of_all):
    """The values of x that are kept, those of 16 bits as half of them; all of x, where it is copied."""
    monkeypatch.setattr(kept_rows, "PROGRAMS", 1)
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16), Ledger([]) as ledger:
        x, gamma, order = torch.rand(32, 64, 64), torch.rand(64).requires_grad_(), torch.rand(2, 16).argsort()
        x, norm = x.requires_grad_(), LayerNorm(64)
        before = ledger.work
        y = kept_rows.added(x, norm, lambda y: y, gamma, order, 11, own)
        torch.autograd.grad(y, (x, gamma, norm.weight), torch.empty_like(y))
        found = (ledger.work - before).others
    assert found == pytest.approx((11 / 16 * of_kept + of_all) * x.numel() * 4, rel=0.01)
