"""What is not finite is detected at its step, named, kept out of the weights and saved with its images."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from dira_scale.train.engine import optim
from dira_scale.train.engine.nan_guard import NaNGuard, nonfinite_names
from dira_scale.train.models.momentum import local_shard

ROOT = Path(__file__).parents[3]
BAD = [math.nan, math.inf, -math.inf]


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))


def a_step(
    guard: NaNGuard, network: nn.Module, step: int, di: float = 1.0, re: float = 2.0, hook: float = 1.0
) -> float:
    """Losses whose gradients are finite even where they are not; ``hook`` spoils the gradient alone."""
    network.zero_grad()
    out = network(torch.ones(2, 3)).square().mean()
    out.register_hook(lambda grad: grad * hook)
    losses = {"loss": torch.tensor(di + re), "loss/di": torch.tensor(di), "loss/re": torch.tensor(re)}
    factor = guard.losses(step, losses)
    ((out + torch.tensor(di) + torch.tensor(re)) * factor).backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    norm = get_total_norm(gradients)
    guard.gradients(step, gradients, norm)
    return float(norm)


def test_nothing_is_found_in_numbers_and_gradients_are_as_they_were() -> None:
    guard, guarded, plain = NaNGuard(torch.device("cpu")), module(), module()
    assert guard.read() is None
    for step in range(3):
        norm = a_step(guard, guarded, step)
        plain.zero_grad()
        plain(torch.ones(2, 3)).square().mean().backward()
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(guarded.parameters(), plain.parameters(), strict=True))
        assert norm == pytest.approx(math.sqrt(sum(float(p.grad.square().sum()) for p in plain.parameters())))
    assert guard.read() is None


@pytest.mark.parametrize("value", BAD)
def test_the_first_term_is_named_and_its_gradients_cleared(value: float) -> None:
    guard, network = NaNGuard(torch.device("cpu")), module()
    a_step(guard, network, 4)
    a_step(guard, network, 5, re=value)  # its gradient alone would have been finite
    assert all(p.grad.eq(0).all() for p in network.parameters())
    a_step(guard, network, 6, di=math.nan, re=math.nan)
    assert all(p.grad.eq(0).all() for p in network.parameters())  # from then on
    actual = guard.read()
    assert actual is not None and (actual.step, actual.terms) == (5, {"loss/re": [0]})
    assert actual.losses[0]["loss/di"] == 1.0 and not math.isfinite(actual.losses[0]["loss/re"])
    assert str(actual) == "step 6: loss/re is not finite"


@pytest.mark.parametrize("value", BAD)
def test_a_gradient_that_is_no_number_under_a_loss_that_is_one(value: float) -> None:
    guard, network = NaNGuard(torch.device("cpu")), module()
    a_step(guard, network, 0)
    a_step(guard, network, 1, di=0.5, hook=value)
    a_step(guard, network, 2)
    assert all(p.grad.eq(0).all() for p in network.parameters())
    actual = guard.read()
    assert actual is not None and (actual.step, actual.terms) == (1, {"gradient": [0]})
    assert actual.losses[0]["loss/di"] == 0.5  # of that step, not of the last
    assert "though every loss is finite" in str(actual)


@contextmanager
def sharded(network: nn.Module) -> Iterator[nn.Module]:
    """By FSDP2, over one process."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        yield fully_shard(network, mesh=dist.init_device_mesh("cpu", (1,)))
    finally:
        dist.destroy_process_group()


def held(network: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    """Weights and states."""
    values = [*network.parameters(), *(value for state in optimizer.state.values() for value in state.values())]
    return [local_shard(value.detach()).clone() for value in values if isinstance(value, Tensor)]


@pytest.mark.parametrize("bad", [0, 2])
@pytest.mark.parametrize(
    ("given", "shards"),
    [
        ({"_target_": "torch.optim.SGD", "momentum": 0.9, "nesterov": True}, False),
        ({"_target_": "torch.optim.Adam", "weight_decay": 0.1}, False),
        ({"_target_": "torch.optim.AdamW", "amsgrad": True}, False),
        ({"_target_": "torch.optim.AdamW"}, True),
        ({"_target_": "torch.optim.SGD", "momentum": 0.9}, True),
    ],
)
def test_a_fused_optimizer_stays_where_the_last_good_step_has_left_it(
    given: dict[str, Any], shards: bool, bad: int
) -> None:
    """torch's kernels for CPUs obey as those for GPUs. No gradient is touched."""
    guard = NaNGuard(torch.device("cpu"))
    with sharded(module()) if shards else nullcontext(module()) as network:
        parts = [*map(optim.part_of, network.parameters())]
        optimizer = optim.build(given | {"lr": 0.1, "fused": True}, parts, "optim.optimizer")
        for step in range(4):
            before = held(network, optimizer)
            network.zero_grad()
            (network(torch.ones(2, 3)).square().mean() * (math.nan if step == bad else 1.0)).backward()
            gradients = [local_shard(p.grad) for p in network.parameters() if p.grad is not None]
            guard.gradients(step, gradients, get_total_norm(gradients), optimizer)
            assert all(gradient.isnan().all() == (step == bad) for gradient in gradients)
            for part, gradient in zip(parts, gradients, strict=True):
                part.grad = gradient
            optimizer.step()
            after = held(network, optimizer)
            same = [torch.equal(old, new) for old, new in zip(before, after, strict=False)]
            assert all(same) if step >= bad else not any(same)
            if step == 0 == bad:  # its states begin at 0
                assert not any(state.any() for state in after[len(before) :])
    found = guard.read()
    assert found is not None and found.step == bad


def test_one_weight_in_a_great_many_is_found() -> None:
    tensors = {"large": torch.full((3,), 3e38), "whole": torch.tensor([2**60]), "empty": torch.zeros(0)}
    tensors |= {f"{value}": torch.ones(1000).index_fill_(0, torch.tensor([77]), value) for value in BAD}
    assert nonfinite_names(tensors) == [str(value) for value in BAD]
