"""Normalisation, addition and activation as one operation, against its formula; the kernels by an interpreter."""

import copy
import sys
from contextlib import nullcontext

import pytest
import timm
import torch
import torch.nn.functional as F
from harness import INTERPRETED, finish
from needs import need_extra
from timm.models import FeatureListNet
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import init
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from train.methods.masked import NETWORKS

from dira_scale.base.machine.kernels import KernelLaunch, work
from dira_scale.fleet.forecast.ledger import Ledger
from dira_scale.fleet.forecast.network import without_memory
from dira_scale.train.methods.adversary import Adversary, adversary_of
from dira_scale.train.models import grouped_norm, norm, norm_act
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.grouped_norm import GroupedBatchNorm

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def plainly(x, weight, bias, residual, groups, slope):
    """The formula, group by group."""
    parts = []
    for part in x.chunk(groups):
        axes = [0, *range(2, x.dim())]
        mean, var = part.mean(axes, keepdim=True), part.var(axes, correction=0, keepdim=True)
        parts.append((part - mean) / (var + 1e-5).sqrt())
    y = torch.cat(parts)
    if weight is not None:
        shape = [-1, *[1] * (x.dim() - 2)]
        y = y * weight.view(shape) + bias.view(shape)
    y = y if residual is None else y + residual
    return torch.where(y > 0, y, slope * y)


def drawn(size, groups, affine, added, layout, device="cpu"):
    """A map, weight, bias, what is added; what statistics are added to."""
    torch.manual_seed(0)
    x = 3 * torch.randn(6, 7, *size, dtype=torch.float64) + 5
    x, residual = (each.contiguous(memory_format=layout).requires_grad_() for each in (x, torch.randn_like(x)))
    weight, bias = (torch.randn(7, dtype=torch.float64).requires_grad_() for _ in range(2))
    pending = torch.ones(18, dtype=torch.float64)
    return x, *((weight, bias) if affine else (None, None)), residual if added else None, pending


def check(operation, size, groups, affine, added, slope, last):
    layout = LAYOUTS[len(size) + 2] if last else torch.contiguous_format
    *given, pending = drawn(size, groups, affine, added, layout)
    ours, right = operation(*given, groups, slope, 1e-5, pending), plainly(*given, groups, slope)
    assert ours.is_contiguous(memory_format=layout)
    of = [each for each in given if each is not None]
    gradient = torch.randn(ours.shape, dtype=ours.dtype)
    ends = [(y, *torch.autograd.grad(y, of, gradient)) for y in (ours, right)]
    for a, b in zip(*ends, strict=True):
        assert_close(a, b, rtol=1e-11, atol=1e-11)
    x = given[0].detach().unflatten(0, (groups, -1)).transpose(1, 2).flatten(2)
    assert_close(pending - 1, torch.cat([x.mean(2), x.var(2), torch.ones(groups, 4)], 1).mean(0))


def check_bias(size, last):
    x, _, bias, _, _ = drawn(size, 1, True, False, LAYOUTS[len(size) + 2] if last else torch.contiguous_format)
    shifted = x + bias.view(-1, *[1] * len(size))
    ends = [(y, *torch.autograd.grad(y.sin().sum(), (x, bias))) for y in (
        norm_act.bias_act(x, bias, 0.2), torch.where(shifted > 0, shifted, 0.2 * shifted))]  # fmt: skip
    for a, b in zip(*ends, strict=True):
        assert_close(a, b, rtol=1e-11, atol=1e-11)


# Size, groups, affine, something added, slope, channels last.
CASES = [
    ((6, 5), 6, False, False, 0.2, True),  # a discriminator's
    ((6, 5), 3, True, True, 0.0, True),  # a ResNet's
    ((4, 5, 6), 6, True, False, 0.01, False),  # ResEnc's
    ((4, 5, 6), 6, True, True, 0.01, False),
    ((4, 5, 6), 1, True, False, 0.0, True),
    ((3, 5), 1, True, True, 1.0, False),
]


@pytest.mark.parametrize("case", CASES)
def test_in_float64_it_is_the_formula_forward_and_backward(case):
    check(norm_act.NormAct.apply, *case)
    check_bias(case[0], case[-1])


def test_torchs_operations_are_the_same():
    x, weight, bias, residual, _ = drawn((6, 5), 2, True, True, torch.channels_last)
    for groups in (1, 2, 6):
        ours = norm_act.norm_act(x, weight, bias, groups=groups, slope=0.1, residual=residual)
        assert_close(ours, plainly(x, weight, bias, residual, groups, 0.1), rtol=1e-12, atol=1e-12)


POINTERS = ("parts", "stats", "weight", "bias", "sums", "merged", "pending")
KERNELS = (
    INTERPRETED
    + """
from train.models import test_norm_act as t
from dira_scale.train.models import norm_act, norm_act_triton as kernels
norm_act._kernels = lambda x: kernels
kernels.MOST, kernels.PARTS, kernels.COLUMNS = 4, 4, 4  # several of each, with remainders
kernels.TILES, kernels.PROGRAMS = dict.fromkeys(kernels.TILES, (512, 256)), dict.fromkeys(kernels.TILES, 8)
for case in (t.CASES[1], t.CASES[3]):
    t.check(norm_act.NormAct.apply, *case)
    t.check_bias(case[0], case[-1])
x = t.torch.randn(4, 7, 6, 5) + 1000
for layout in (t.torch.contiguous_format, t.torch.channels_last):
    var, mean = t.torch.var_mean(x.double().view(2, 2, 7, 30), (1, 3), correction=0)
    stats = kernels.norm_act_stats(x.contiguous(memory_format=layout), 2, None)
    t.assert_close(stats.double(), t.torch.stack([mean, var], 1), rtol=1e-4, atol=0)
"""
)


def test_the_gpus_kernels_are_the_formula_by_tritons_interpreter():
    need_extra("triton")
    finish([sys.executable, "-c", KERNELS])


def test_the_kernels_compile_to_a_gpus_machine_code():
    """By Triton and NVIDIA's assembler, which it brings, for an H100, as called for a map in bf16. Within a loop no
    kernel reduces, for which all of a block's threads would wait."""
    need_extra("triton")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dira_scale.train.models import norm_act_triton as kernels

    maps, wide = {"x", "dy", "y", "dz", "dx", "residual"}, kernels.tl.float32
    shared = {"WIDE": wide, "AFFINE": True, "RESIDUAL": True, "slope": 0.2, "eps": 1e-5}
    shared |= {"COLUMNS": 8, "PARTS": 128, "GROUPS": 4}
    for last in (True, False):
        given = shared | {"LAST": last, "ROWS": 64, "COLUMNS": 64 if last else 1, "MOMENTS": last, "NOTED": last}
        for kernel in (kernels._moments, kernels._applied, kernels._summed, kernels._differentiated, kernels._merged):
            fixed = {name: given[name] for name in kernel.arg_names if name in given}
            pointers = {name: "*bf16" if name in maps else "*fp32" for name in (*maps, *POINTERS)}
            kinds = {name: "constexpr" if name in fixed else pointers.get(name, "i32") for name in kernel.arg_names}
            places = {(kernel.arg_names.index(name),): value for name, value in fixed.items()}
            options = {"maxnreg": kernels.REGISTERS}
            made = triton.compile(ASTSource(kernel, kinds, places), GPUTarget("cuda", 90, 32), options)
            assert made.asm["cubin"], (kernel, last)
            loops = [part.partition("scf.yield")[0] for part in made.asm["ttgir"].split("scf.for")[1:]]
            assert loops and not any("tt.reduce" in loop for loop in loops), kernel


@pytest.mark.gpu
def test_a_gpu_uses_the_kernels_and_they_repeat():
    device = torch.device("cuda")
    assert norm_act.usable(device)
    for size, layout in (((56, 56), torch.channels_last), ((40, 48, 40), torch.contiguous_format)):
        for dtype, bound in ((torch.float32, 1e-4), (torch.bfloat16, 0.03)):
            x, dy = (torch.randn(8, 64, *size, device=device).to(dtype, memory_format=layout) for _ in range(2))
            x.requires_grad_()
            runs = []
            for context in (norm_act.plain(), nullcontext(), nullcontext()):
                with context:
                    y = norm_act.norm_act(x, groups=8, slope=0.2)
                    runs.append((y, *torch.autograd.grad(y, x, dy)))
            for right, once, again in zip(*runs, strict=True):
                assert torch.equal(once, again)
                assert float((once - right).abs().max() / right.abs().max()) <= bound


@pytest.mark.parametrize("name", ["resnet18", "resnet26d", "resnetblur18", "regnetx_002", "seresnet18"])
def test_a_folded_network_is_timms(name):
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=3).double()
    for layer in plain.modules():
        if isinstance(layer, nn.BatchNorm2d):
            init.uniform_(layer.weight, 0.5, 1.5)
    ours = timm.create_model(name, num_classes=3).double()
    ours.load_state_dict(plain.state_dict())
    parameters = dict(ours.named_parameters())
    norm.convert(ours)
    assert all(value is parameters[key] for key, value in ours.named_parameters())
    assert [*ours.state_dict()] == [*plain.state_dict()] and norm.groups(ours) == 1
    assert not any(type(layer) is nn.BatchNorm2d for layer in ours.modules())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    ends = []
    for network in (plain, ours):
        network(x).square().sum().backward()
        ends.append((network(x), *(p.grad for p in network.parameters())))
    for a, b in zip(*ends, strict=True):
        assert torch.equal(a, b)


def test_a_resnets_norms_add_and_activate():
    network = norm.convert(timm.create_model("resnet50", features_only=True))
    norms = [layer for layer in network.modules() if isinstance(layer, GroupedBatchNorm)]
    assert sum(isinstance(layer.act, nn.ReLU) for layer in norms) == 49 and len(norms) == 53  # all but the shortcuts'
    acts = {layer.act for layer in norms}
    assert all(layer in acts for layer in network.modules() if isinstance(layer, nn.ReLU))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("act", [nn.ReLU(), nn.SiLU()])
def test_a_layer_of_groups_learns_and_notes_the_same_by_the_operation(monkeypatch, groups, act):
    """Two passes, as of the micro-batches of a step, with something added; one that is recomputed does not count."""
    x, _, _, residual, _ = drawn((6, 5), 1, False, True, torch.channels_last)
    ends = []
    for fused in (False, True):
        monkeypatch.setattr(grouped_norm, "fuses", lambda *_, fused=fused: fused)
        layer = norm.convert(nn.Sequential(nn.BatchNorm2d(7), act).double(), groups)[0]
        layer.act = act
        layer.weight.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
        y = layer(x, residual)
        of = x, residual, layer.weight, layer.bias
        ends.append([y, *torch.autograd.grad(y.square().sum(), of), layer(2 * x)])
        with grouped_norm.Recomputing():
            layer(3 * x)
        norm.commit_statistics(layer)
        ends[-1] += [layer.running_mean, layer.running_var, layer.num_batches_tracked]
    for a, b in zip(*ends, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_the_discriminator_as_a_gpu_runs_it_copies_nothing():
    """Of views followed by in-place operations autograd copies maps; a norm of another layout converts them."""
    mode, seen = FakeTensorMode(), []

    class Names(Ledger):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func._schema.name)
            return super().__torch_dispatch__(func, types, args, kwargs)

    with torch.device("meta"):
        adversary = Adversary()
    without_memory(adversary, mode, channels_last=True)
    with mode:
        images = torch.rand(2, 1, 64, 64).requires_grad_()
        with Names([]):
            adversary.discriminator_loss(images, images).backward()
            adversary.generator_loss(images).backward()
    assert "dira_scale::norm_act_gradient" in seen
    assert not {"aten::copy_", "aten::clone", "aten::as_strided"} & set(seen)


def test_kernels_that_do_not_build_are_told_of_once(monkeypatch, caplog):
    norm_act.usable.cache_clear()
    monkeypatch.setattr(norm_act, "_kernels", lambda x: (_ for _ in ()).throw(ImportError("no Triton")))
    assert not norm_act.usable(torch.device("cpu")) and not norm_act.usable(torch.device("cpu"))
    norm_act.usable.cache_clear()
    assert [record.message.count("no Triton") for record in caplog.records] == [1]
    x = torch.randn(2, 3, 4, 4)
    assert_close(norm_act.norm_act(x, groups=2, slope=0.2), F.leaky_relu(F.instance_norm(x), 0.2))


class Own(nn.Sequential):
    """A network that reads what its norm gives."""

    def forward(self, x):
        return self[1](self[0](x)) + self[0](x)


def test_only_sequences_that_run_in_order_are_folded():
    torch.manual_seed(0)
    plain, x = Own(nn.BatchNorm2d(3), nn.ReLU()), torch.randn(4, 3, 5, 5)
    assert torch.equal(norm.convert(copy.deepcopy(plain))(x), plain(x))


def test_a_map_that_is_returned_is_not_activated():
    layers, x = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), torch.randn(4, 3, 5, 5)
    layers.feature_info = [{"num_chs": 3, "reduction": 1, "module": name} for name in ("0", "1")]
    plain = FeatureListNet(layers, (0, 1))
    assert all(map(torch.equal, norm.convert(copy.deepcopy(plain))(x), plain(x)))


def test_the_first_use_may_be_in_a_block_that_is_recomputed(monkeypatch):
    """There, and without gradients, with autocast: the kernels are tried in a thread of their own."""
    monkeypatch.setattr(norm_act, "fuses", lambda *_: norm_act.usable(torch.device("cpu")))
    norm_act.usable.cache_clear()
    layer, x = norm_act.InstanceNormAct(3, 0.2), torch.randn(2, 3, 4, 4, requires_grad=True)
    ends = []
    for recomputed in (True, False):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            assert norm_act.usable(torch.device("cpu")) or not recomputed
        norm_act.usable.cache_clear()
        y = checkpoint(layer, x, use_reentrant=False) if recomputed else layer(x)
        ends.append((y, *torch.autograd.grad(y.square().sum(), (x, layer.weight))))
        assert norm_act.usable(torch.device("cpu"))
    norm_act.usable.cache_clear()
    for a, b in zip(*ends, strict=True):
        assert_close(a, b)


def test_results_that_are_no_numbers_are_wrong():
    x = torch.ones(3)
    device = torch.device("cpu")
    assert work("x", device, lambda: [(x, x), (x, x)])
    for wrong in (x * torch.nan, 1.001 * x):
        assert not work("x", device, lambda wrong=wrong: [(x, x), (wrong, x), (x, x)])


@pytest.mark.parametrize("name", ["instance", "resenc"])
def test_a_gradient_penalty_differentiates_twice_as_a_gpu_would(name):
    model, size, _ = NETWORKS[name]
    mode = FakeTensorMode()
    with torch.device("meta"):
        adversary = adversary_of("wgan_gp", 100.0, architecture(model), size)
    without_memory(adversary, mode, channels_last=True)
    with mode:
        images = torch.rand(2, 1, *size)
        adversary.discriminator_loss(images, images, images, torch.rand(2)).backward()
    assert all(parameter.grad is not None for parameter in adversary.parameters())


def test_a_kernel_is_started_by_what_is_kept_of_its_first_call_where_addresses_are_even():
    class Kernel:
        """As Triton's, whose calls return what they compiled."""

        arg_names = ("x", "y", "count", "SIZE")

        def __getitem__(self, grid):
            return lambda *given, **constants: called.append((grid, given, constants)) or compiled

    called, started, compiled = [], [], {(2, 3, 1): lambda *given: started.append(given)}
    launch, x = KernelLaunch(Kernel(), (2, 3), 5, SIZE=7), torch.zeros(8)
    launch(x, x[1:])
    launch(x, x)
    launch(x, x)
    launch(x[1:], x)
    assert [given[0] is x for _, given, _ in called] == [True, True, False]  # all but the third
    grid, given, constants = called[1]
    assert grid == (2, 3, 1) and given[-1] == 5 and constants == {"SIZE": 7}
    assert started == [(x.data_ptr(), x.data_ptr(), 5, 7)]
