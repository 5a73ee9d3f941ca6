"""FSDP2 on a mesh: four real processes as 2 x 2, 4 x 1, 1 x 4 and one take the same steps, in 16 bits those of gathers
in fp32. Run by pytest this file starts itself once per process: ``test_mesh.py RANK FOLDER``."""

import os
import re
import sys
from datetime import timedelta
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from harness import together
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather

from dira_scale.base.config.compose import compose
from dira_scale.train.distributed import precision
from dira_scale.train.distributed.world import World
from dira_scale.train.engine import optim, parallel
from dira_scale.train.engine import run as engine
from dira_scale.train.engine.parallel import mesh, recompute, strategy
from dira_scale.train.models.momentum import ema_update, momentum_copy
from dira_scale.train.models.norm import commit_statistics, convert, regroup

RANKS, GROUP = 4, 1000  # bytes of two blocks
# Under LARS BatchNorm's groups span two processes of four; under AdamW a step has two micro-batches.
EXACT = [("lars_barlow", 1), ("lars_barlow", 2), ("lars_barlow", 4), ("adamw", 1), ("adamw", 2)]
HALVES = (("bf16", 2), ("bf16", 4), ("fp16", 4))


class Twice(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        x = x + super().forward(x)
        return x + super().forward(x)


class Wide(nn.Linear):
    """Computes in fp32, whatever autocast is around it."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


class Network(nn.Module):
    """Of layers whose rows four processes do not divide; the trained one has two forward passes."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1), nn.Flatten()
        )
        blocks = (Twice(nn.LayerNorm(7), nn.Linear(7, 8), nn.GELU(), nn.Linear(8, 7)) for _ in range(4))
        self.trained = nn.Sequential(stem, nn.Linear(96, 7), Wide(7, 7), *blocks)
        self.average = momentum_copy(self.trained)

    def forward(self, x: Tensor) -> Tensor:
        return (self.trained(x) * self.average(x).detach() + self.trained(x.flip(2))).square().mean()


@cache
def settings(optimizer: str, strategy: str) -> Any:
    words = [f"optim={optimizer}", f"parallel={strategy}", "data.shards=none", "parallel.checkpoint_activations=true"]
    return OmegaConf.to_object(compose("pretrain", words))


def after(ranks: int, shard: int, kind: str, optimizer: str, steps: int = 3) -> dict[str, Tensor]:
    """Tensors after clipped steps in float64 or a precision, and the gradients' norms before they were clipped."""
    torch.set_default_dtype(torch.float64 if kind == "float64" else torch.float32)
    torch.manual_seed(0)
    config, network = settings(optimizer, "fsdp2" if ranks > 1 else "ddp"), convert(Network())
    device, autocast, accumulate = torch.device("cpu"), kind.replace("float64", "fp32"), 1 + (optimizer == "adamw")
    regroup(network, 8 if accumulate > 1 else 2, accumulate)
    world: Any = SimpleNamespace(device=device, ranks=ranks, shard=shard, precision=autocast)
    images, norms = torch.randn(3, 16, 1, 4, 4), torch.ones(steps)
    chosen = parallel.build(world, config.parallel, network)
    model = chosen.begin(lambda part: part, lambda part: optim.stage_optimizer(config.optim, part, 256))
    for step in range(steps):
        for i, micro in enumerate(images[step].chunk(ranks)[dist.get_rank() if ranks > 1 else 0].chunk(accumulate)):
            with model.accumulating(i + 1 == accumulate):
                with precision.autocast(device, autocast):
                    loss = model.wrapped(micro) / accumulate
                model.backward(loss)
        gradients = model.averaging()()
        norms[step] = model.norm(gradients)
        torch._foreach_mul_(gradients, (0.1 / norms[step]).clamp(max=1.0))
        model.step()
        commit_statistics(model.module)
        ema_update(model.module.average.parameters(), model.module.trained.parameters(), 0.1)
    whole = {name: getattr(x, "full_tensor", x.clone)() for name, x in model.module.state_dict().items()}
    chosen.end(model)
    return {"norms": norms, **whole}


def gathered(shard: int, wide: bool) -> set[int]:
    """Bytes of each group's values with what pads them to shards: four, unless ``wide`` two of what autocast casts."""
    network, cast = Network(), set[nn.Parameter]()
    for layer in network.modules():  # on CPUs, convolutions of larger kernels may compute in fp32
        if type(layer) is nn.Linear or getattr(layer, "kernel_size", 0) == (1, 1):
            cast |= set(layer.parameters()) if not wide else set()
    groups = [{p for block in group for p in block.parameters()} for group in recompute.groups(network)]
    assert len(groups) == 4
    return {
        sum(-(-len(p) // shard) * shard * p[0].numel() * (2 if p in cast else 4) for p in parameters)
        for parameters in (*groups, set(network.parameters()).difference(*groups))
    }


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """What each of four processes found, and then what one alone did."""
    folder = tmp_path_factory.mktemp("ranks")
    together([[sys.executable, __file__, str(rank), str(folder)] for rank in range(RANKS + 1)])
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS + 1)]


@pytest.mark.system
@pytest.mark.parametrize("optimizer", ["lars_barlow", "adamw"])
def test_every_mesh_takes_the_steps_of_one_process(ended: list[dict[Any, Any]], optimizer: str) -> None:
    """Tensors by the way that each went, as in tests/system/test_strategies.py."""
    start, expected = ended[-1][optimizer]
    assert expected["norms"].min() > 0.1
    for found, shard in product(ended[:-1], [shard for name, shard in EXACT if name == optimizer]):
        torch.testing.assert_close(found[optimizer, shard]["norms"], expected["norms"], rtol=1e-9, atol=0)
        for name in start.keys() - {"norms"}:
            apart, moved = found[optimizer, shard][name] - expected[name], expected[name] - start[name]
            assert apart.double().norm() <= 1e-6 * moved.double().norm() + 1e-15, (shard, name)


@pytest.mark.system
@pytest.mark.parametrize(("kind", "shard"), HALVES)
def test_gathering_in_16_bits_changes_no_bit(
    ended: list[dict[Any, Any]], kind: str, shard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of weights used twice in a pass, in several, recomputed, or in fp32; and no other is gathered in fp32."""
    monkeypatch.setattr(recompute, "GROUP", GROUP)
    for found in ended[:-1]:
        (narrow, sizes), (wide, before) = found[kind, shard, True], found[kind, shard, False]
        assert all(torch.equal(narrow[name], wide[name]) for name in wide)
        assert sizes == gathered(shard, wide=False) and before == gathered(shard, wide=True)


@pytest.mark.parametrize(
    ("billions", "ranks", "local", "expected"),
    [
        (0.1, 8, 8, 8),  # one machine: all
        (1.1, 1024, 8, 8),  # ViT-g: 22 GB, of which each of a machine's 8 holds 2.75
        (20, 1024, 8, 16),  # 400 GB: 50 each of 8, 25 each of 16
        (20, 24, 8, 12),
        (2000, 1024, 8, 1024),  # too large anyhow
        (0.1, 10, 4, 5),  # machines do not divide the processes
    ],
)
def test_auto_shards_over_a_machine_or_as_many_more_as_it_takes(
    billions: float, ranks: int, local: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 bytes for each that is trained and its follower; half of a GPU of 80 GB takes them."""
    with torch.device("meta"):
        module = nn.ModuleList([nn.Linear(1000, int(billions * 1e6), bias=False) for _ in range(2)])
    module[1].requires_grad_(False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=local * 80 * 10**9))
    accelerator = SimpleNamespace(num_processes=ranks, device=torch.device("cpu"))
    world = mesh.with_shard(World(accelerator, "fp32"), settings("adamw", "fsdp2").parallel, lambda: module)
    assert world.used["mesh_used"] == [ranks // expected, expected]


@pytest.mark.parametrize(
    ("shard", "recorded", "expected"),
    [("auto", [2, 4], 4), (2, [2, 4], 2), ("auto", [1, 4], 0), ("auto", None, 0), ("auto", [-2, -4], 0)],
)
def test_a_run_keeps_its_mesh_on_as_many_processes(
    shard: int | str, recorded: object, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "recorded_in", lambda *_: {"precision_used": "fp32", "mesh_used": recorded})
    config: Any = SimpleNamespace(run="", precision="fp32", keep=lambda *_: None)
    config.checkpoint, config.parallel = SimpleNamespace(folder=""), SimpleNamespace(shard=shard, threads=1)
    accelerator = SimpleNamespace(num_processes=8, process_index=0, device=torch.device("cpu"))
    assert engine._keep_choices(config, OmegaConf.create(), World(accelerator, "fp32")).shard == expected


def refuse_outside_of_autocast() -> None:
    """A layer that computes in 32 bits, of weights that would be gathered in 16."""
    world: Any = SimpleNamespace(device=torch.device("cpu"), shard=0, precision="bf16")
    chosen = parallel.build(world, settings("adamw", "fsdp2").parallel, nn.Sequential(nn.Linear(4, 4)))
    model = chosen.begin(lambda part: part, lambda part: torch.optim.SGD(part.parameters()))
    with pytest.raises(RuntimeError, match=re.escape("Linear(in_features=4, out_features=4, bias=True) computes out")):
        model.wrapped(torch.zeros(1, 4))


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if rank == RANKS:
        alone = {name: [after(1, 0, "float64", name, steps) for steps in (0, 3)] for name, _ in EXACT}
        return torch.save(alone, folder / f"{rank}.pt")
    limit = timedelta(seconds=240)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=RANKS, timeout=limit)
    recompute.GROUP = GROUP
    refuse_outside_of_autocast()
    found: dict[Any, Any] = {(name, shard): after(RANKS, shard, "float64", name) for name, shard in EXACT}
    gather, narrow, sizes = DefaultAllGather.__call__, strategy.narrow, set[int]()

    def noted(self: Any, output_tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.add(output_tensor.nbytes)
        return gather(self, output_tensor, *args, **kwargs)

    DefaultAllGather.__call__ = noted
    for (kind, shard), narrows in product(HALVES, (True, False)):
        strategy.narrow = narrow if narrows else lambda *_: None
        found[kind, shard, narrows] = after(RANKS, shard, kind, "adamw"), set(sizes)
        sizes.clear()
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)  # as test_parallel.py


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
