"""Activation checkpointing recomputes what it says; LARS sees whole layers; processes share gradients and threads.

Run by pytest this file starts itself once per process: ``test_parallel.py RANK WORLD FOLDER``.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from harness import together
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor
from train.runs.writers import Kept

from dira_scale.base.config.compose import compose
from dira_scale.train.distributed.control import gather_objects
from dira_scale.train.engine import optim, parallel
from dira_scale.train.engine.parallel import recompute
from dira_scale.train.engine.parallel.model import OPTIMIZER
from dira_scale.train.models.encoder import build_encoder
from dira_scale.train.models.momentum import ema_update
from dira_scale.train.models.norm import commit_statistics, convert
from dira_scale.train.models.unet import UNet
from dira_scale.train.runs.checkpoint import CheckpointTensor
from dira_scale.train.validation import evaluating

WAIT = 240  # seconds


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return convert(UNet(build_encoder("resnet18"), (16, 16, 8, 8, 8)), groups=2)


def run(module: nn.Module, images: torch.Tensor) -> dict[str, int]:
    """One forward and backward pass; how often each block's last convolution ran."""
    counts: dict[str, int] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda *_, n=name: counts.update({n: counts.get(n, 0) + 1}))
    module(images).square().mean().backward()
    commit_statistics(module)
    return counts


def test_blocks_are_computed_twice_and_nothing_else_changes(images: torch.Tensor) -> None:
    plain, recomputed = network(), network()
    names = [name for name, _ in recomputed.named_parameters()]
    parallel.checkpoint_activations(recomputed)
    once, twice = run(plain, images), run(recomputed, images)
    assert set(once.values()) == {1}
    encoder = [name for name in twice if ".layer" in name]
    assert len(encoder) > 15 and all(twice[name] == 2 for name in encoder)
    assert sum(twice[name] == 2 for name in twice if "decoder" in name) >= 8
    assert [name for name, _ in recomputed.named_parameters()] == names
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(plain.named_buffers(), recomputed.buffers(), strict=True):
        assert torch.equal(a, b), name


def test_a_pass_may_be_differentiated_twice(images: torch.Tensor) -> None:
    """As the health monitors do, before the backward pass."""
    once, twice = network(), network()
    for module in (once, twice):
        parallel.checkpoint_activations(module)
    for module, again in ((once, False), (twice, True)):
        loss = module(images).square().mean()
        if again:
            torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
        loss.backward()
        commit_statistics(module)
    for (name, a), b in zip(once.state_dict().items(), twice.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for (name, a), b in zip(once.named_parameters(), twice.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


def after_lars(cut: bool) -> dict[str, Tensor]:
    """Parameters after three steps of Barlow Twins' LARS, of gradients that are given."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 3), nn.Linear(3, 10))
    if cut:
        for layer in module:
            fully_shard(layer)
        fully_shard(module)
    config: Any = OmegaConf.to_object(compose("pretrain", ["optim=lars_barlow", "data.shards=none"]))
    optimizer = optim.stage_optimizer(config.optim, module, batch=256)
    for _ in range(3):
        for parameter in module.parameters():
            gradient = torch.randn(parameter.shape)
            if cut:
                gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements, src_data_rank=None)
            parameter.grad = gradient
        optimizer.step()
    return {name: p.full_tensor() if cut else p for name, p in module.named_parameters()}


def joined(pieces: dict[str, CheckpointTensor]) -> dict[str, Tensor]:
    """The tensors of which every process has a piece."""
    whole = {name: torch.full(piece.shape, torch.nan, dtype=piece.held.dtype) for name, piece in pieces.items()}
    for of_one in gather_objects({name: (piece.start, piece.held) for name, piece in pieces.items()}):
        for name, (start, held) in of_one.items():
            whole[name].view(-1)[start : start + held.numel()] = held.reshape(-1)
    return whole


def after_adamw(strategy: str, stages: int = 1) -> dict[str, Tensor]:
    """Weights and states after four steps of two micro-batches, in ``stages`` that go on from each other."""
    torch.manual_seed(0)
    blocks, state = [nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(5)], dict[str, Tensor]()
    world: Any = SimpleNamespace(device=torch.device("cpu"), ranks=1, shard=0, precision="fp32")
    config: Any = OmegaConf.to_object(compose("pretrain", ["optim=adamw", "data.shards=none", f"parallel={strategy}"]))
    chosen = parallel.build(world, config.parallel, nn.Sequential(*blocks))
    for steps in torch.arange(4.0).chunk(stages):
        model = chosen.begin(lambda part: part, lambda part: optim.stage_optimizer(config.optim, part, 32))
        model.load(Kept(state), OPTIMIZER)
        for x in steps:
            for micro in range(2):
                with model.accumulating(micro == 1):
                    model.backward(model.wrapped((x - micro).expand(1, 4)).square().sum())
            model.step()
        state = joined(model.pieces())
        assert model.local_tensors().keys() == state.keys()
        chosen.end(model)
    return state


def averaged(rank: int, ranks: int) -> Tensor:
    """The gradient of a module replicated on all ranks, where each found its own number, once they have agreed."""
    module = nn.Linear(2, 1, bias=False)
    module.weight.grad = torch.full((1, 2), rank + 1.0)
    parallel.GradientMeans(module).wait()
    return module.weight.grad


def copied_after_validation() -> list[Tensor]:
    """A network's weights, and a copy of them that is made between a validation and a step."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False))
    fully_shard(module)
    with evaluating(module), torch.no_grad():
        module(torch.ones(1, 3))
    ema_update(module[1].parameters(), module[0].parameters(), 1.0)
    module(torch.ones(1, 3)).sum().backward()
    return [parameter.full_tensor() for parameter in module.parameters()]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of three processes found."""
    folder, ranks = tmp_path_factory.mktemp("ranks"), 3
    together([[sys.executable, __file__, str(rank), str(ranks), str(folder)] for rank in range(ranks)])
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


def test_lars_on_parts_of_layers_is_lars_on_layers(ended: list[dict[str, Any]]) -> None:
    """fsdp2: norms of DTensors are those of whole layers, which the processes do not divide."""
    expected = after_lars(cut=False)
    for tensors in ended:
        for name, tensor in tensors["lars"].items():
            torch.testing.assert_close(tensor, expected[name].data, rtol=1e-6, atol=1e-8, msg=f"{name}: {{}}".format)


def test_adamw_on_parts_is_adamw_on_layers(ended: list[dict[str, Any]]) -> None:
    """fsdp2: two groups of two blocks, one in none; of each tensor 2, 2 and 0 rows. Stages resume bit for bit."""
    expected = after_adamw("ddp")
    for tensors in ended:
        unbroken, resumed = tensors["adamw"]
        torch.testing.assert_close(resumed, unbroken, rtol=0, atol=0)
        torch.testing.assert_close(unbroken, expected, rtol=1e-5, atol=1e-7)


def test_fsdp_gathers_at_least_50_mb_of_a_sequence_at_once() -> None:
    """A ViT-B's blocks in pairs, a ResNet-50's last three; its others have 33 MB."""
    for encoder, expected in (("vit_base_patch16_224", [2] * 6), ("resnet50", [3])):
        with torch.device("meta"):
            assert [len(group) for group in recompute.groups(build_encoder(encoder))] == expected


def test_gradients_are_averaged_over_ranks(ended: list[dict[str, Any]]) -> None:
    """The discriminator's; of 1 … n it is (n + 1) / 2."""
    for tensors in ended:
        assert tensors["averaged"].tolist() == [[(len(ended) + 1) / 2] * 2]


def test_what_is_written_between_a_validation_and_a_step_stays(ended: list[dict[str, Any]]) -> None:
    """fsdp2: a pass without gradients leaves whole tensors, which the next step would replace by their old parts."""
    for tensors in ended:
        weight, bias, copied_weight, copied_bias = tensors["copied"]
        assert torch.equal(weight, copied_weight) and torch.equal(bias, copied_bias)


if __name__ == "__main__":
    rank, ranks, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    limit = timedelta(seconds=WAIT)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=ranks, timeout=limit)
    lars = {name: tensor.data for name, tensor in after_lars(cut=True).items()}
    recompute.GROUP = 160  # bytes of two blocks
    adamw = [after_adamw("fsdp2", stages) for stages in (1, 2)]
    found = {"lars": lars, "adamw": adamw, "averaged": averaged(rank, ranks), "copied": copied_after_validation()}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)  # a Python that ends while a thread of gloo's still holds a tensor may abort (pytorch#179291)
