"""``parallel.compile``: each region of each network is one graph, without a break, BatchNorm's groups within, and
learns as the plain one does."""

import copy
import operator
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils._pytree import tree_map
from train.models.volumes import network

from dira_scale.base.config.compose import compose
from dira_scale.fleet.forecast.network import fake_world
from dira_scale.train.blueprint import blueprint_of
from dira_scale.train.distributed.config import Parallel
from dira_scale.train.engine.parallel.compiled import compile_regions, regions, take_uncompiled
from dira_scale.train.engine.parallel.recompute import blocks, checkpoint_activations
from dira_scale.train.engine.parallel.strategy import build, on_device
from dira_scale.train.methods.adversary import Adversary
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.norm import convert

NETWORKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "test_resnet": ((32, 32), {}),
    "test_vit": ((32, 32), {}),
    "unet3d": ((8, 16, 16), {"width": 0.25}),
    "resenc_l": ((8, 16, 16), {"features": "[4,8,8]", "blocks": "[1,1,1]"}),
    "vit3d": ((8, 16, 16), {"embed_dim": 24, "depth": 4, "num_heads": 2, "decoder_channels": "[8,8]"}),
}


def built(name: str) -> tuple[nn.Module, torch.Tensor]:
    size, keys = NETWORKS[name]
    if len(size) == 3:
        return network(name, size, **keys), torch.rand(8, 1, *size)
    words = f"model.encoder={name}", "model.decoder_channels=[16,16,8,8,8]"
    model = architecture(compose("pretrain", ["data.shards=any", *words]).model)
    return model.build_network(model.build_encoder(size[0])), torch.rand(8, 1, *size)


@pytest.mark.parametrize(
    ("name", "groups"),
    [pytest.param(name, 4, marks=pytest.mark.system) for name in NETWORKS]
    + [pytest.param(name, 1, marks=pytest.mark.torture) for name in NETWORKS],
)
def test_a_block_is_one_graph(name: str, groups: int) -> None:
    """``fullgraph`` raises at a break; the graph, run by torch itself, gives the plain block's gradients."""
    torch.manual_seed(0)
    module, x = built(name)
    convert(module, groups).train()
    gradients = list[list[torch.Tensor]]()
    for compiled in (False, True):
        torch._dynamo.reset()
        counters.clear()
        if compiled:
            compile_regions(module, dynamic=False, fullgraph=True, backend="eager")
        module.zero_grad()
        module(x).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None])
    least = 3 if name == "vit3d" else 4  # equal blocks share one: the transformer's, and two of the decoder
    assert least <= counters["stats"]["unique_graphs"] <= len(regions(module))
    assert len(gradients[0]) == len(list(module.parameters()))
    for plain, compiled_one in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, compiled_one, atol=1e-6, rtol=1e-4)


def test_blocks_that_are_recomputed_are_compiled() -> None:
    """Recomputation stands where a sequence's forward pass was, which dynamo cannot trace alone."""
    torch._dynamo.reset()
    module, x = network("unet3d", (8, 16, 16), width=0.25, norm="instance"), torch.rand(2, 1, 8, 16, 16)
    checkpoint_activations(module)
    compile_regions(module, dynamic=False, backend="aot_eager")
    module(x).square().mean().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


BESIDE = {
    "dira_moco": ["bn1", "projector", "bn1", "key_projector", "discriminator"],
    "dinov2_vitb14": ["head", "teacher_head", "patch_head", "teacher_patch_head", "discriminator"],
    "dira_moco3d adversary.loss=wgan_gp": ["projector", "key_projector"],
}


@pytest.mark.parametrize(
    "experiment", [pytest.param(name, marks=pytest.mark.system if "dinov2" in name else ()) for name in BESIDE]
)
def test_what_is_in_no_block_is_compiled_too(experiment: str) -> None:
    """Single layers are not, nor a discriminator that is differentiated twice."""
    words = [f"experiment={experiment.split()[0]}", "data.shards=none", *experiment.split()[1:]]
    with torch.device("meta"):
        networks = blueprint_of("pretrain", compose("pretrain", words)).networks()
    found = list[str]()
    for module in networks:
        inside, names = set(blocks(module)), {part: name for name, part in module.named_modules()}
        found += [names[region].rpartition(".")[2] for region in regions(module) if region not in inside]
    assert found == BESIDE[experiment]


@pytest.mark.system
def test_a_compiled_discriminator_learns_as_the_plain_one() -> None:
    """In the generator's pass and in its own: one graph each, for as many steps as there are."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    plain = Adversary()
    compiled = copy.deepcopy(plain)
    compile_regions(compiled, dynamic=False, fullgraph=True, backend="aot_eager")
    optimizers = [torch.optim.Adam(each.parameters(), 1e-3) for each in (plain, compiled)]
    for step in range(4):
        torch.manual_seed(step)
        real, fake = torch.rand(2, 2, 1, 32, 32)
        both = list[list[Tensor]]()
        for adversary, optimizer in zip((plain, compiled), optimizers, strict=True):
            restored = fake.clone().requires_grad_()
            losses = [adversary.generator_loss(restored), adversary.discriminator_loss(real, restored)]
            losses[0].backward()
            assert restored.grad is not None and all(p.grad is None for p in adversary.parameters())
            losses[1].backward()
            both.append([*losses, restored.grad])
            optimizer.step()
            optimizer.zero_grad()
        torch.testing.assert_close(*both, rtol=1e-5, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]


def trained(block: nn.Module, given: Any, dtype: torch.dtype, compiled: bool) -> list[float]:
    """The losses of training ``block``, as a strategy has it, on the arguments that it was ``given``."""
    module = nn.Sequential(copy.deepcopy(block).to(dtype), nn.Identity())  # a block is one of several
    parallel = Parallel(compile=compiled, checkpoint_activations=False)
    on_device(module, fake_world("fp32"), parallel, channels_last=False)
    args, named = tree_map(lambda value: value.to(dtype) if isinstance(value, Tensor) else value, given)
    optimizer, losses = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9), list[float]()
    for _ in range(20):
        y = module[0](*args, **named)
        loss = (y - torch.linspace(-1, 1, y.numel(), dtype=dtype).sin().view(y.shape)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.system
def test_a_compiled_block_learns_as_the_plain_one() -> None:
    """Both follow fp64 within fp32's rounding. Their sums have other orders: the plain blocks' losses were off by at
    most 1 unit in the last place, the compiled ones' by 3."""
    torch.manual_seed(0)
    module, x = built("unet3d")
    block, given = blocks(convert(module, 4).train())[1], list[Any]()
    hook = block.register_forward_pre_hook(lambda _, *arguments: given.extend(arguments), with_kwargs=True)
    with torch.no_grad():
        module(x)
    hook.remove()
    torch._dynamo.reset()
    counters.clear()
    exact, plain = (trained(block, given, dtype, False) for dtype in (torch.float64, torch.float32))
    assert not counters["stats"] and exact[-1] < 0.9 * exact[0]
    compiled = trained(block, given, torch.float32, True)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    off = [max(map(abs, map(operator.sub, losses, exact))) for losses in (plain, compiled)]
    assert max(off) <= 32 * torch.finfo(torch.float32).eps * exact[0]


@torch._dynamo.config.patch(recompile_limit=1)  # monkeypatch would leave it deleted
def test_a_run_is_told_once_of_functions_that_compile_no_more_and_not_of_an_earlier_runs() -> None:
    def meet_two_sizes() -> None:
        torch._dynamo.reset()
        layer = torch.compile(nn.Linear(2, 2), dynamic=False, backend="eager")
        for size in (2, 3):
            layer(torch.rand(size, 2))

    take_uncompiled()
    meet_two_sizes()
    assert [text[:58] for text in take_uncompiled()] == ["parallel.compile: 1 function met more kinds of inputs than"]
    assert take_uncompiled() == []
    meet_two_sizes()
    build(fake_world("fp32"), Parallel("ddp"), nn.Linear(2, 2))
    assert take_uncompiled() == []
