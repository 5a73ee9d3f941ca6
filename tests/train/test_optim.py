"""Schedules against their formula; optimizer state survives a round trip by name."""

import math

import pytest
import torch
from torch import nn

from dira_scale.errors import UserError
from dira_scale.train import optim


@pytest.mark.parametrize("step", [0, 1, 293, 294, 100_000])
def test_cosine_per_epoch_is_the_released_formula(step: int) -> None:
    epochs, per_epoch = 800, 294
    expected = 0.03 * 0.5 * (1.0 + math.cos(math.pi * (step // per_epoch) / epochs))
    assert optim.learning_rate("cosine_epoch", 0.03, step, epochs * per_epoch, per_epoch) == pytest.approx(expected)


def test_cosine_per_step_matches_torch() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    for step in range(40):
        assert optim.learning_rate("cosine", 0.5, step, 40, 7) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("target", ["torch.optim.AdamW", "torch.optim.SGD"])
def test_training_goes_on_bit_for_bit_after_a_round_trip_by_name(target: str) -> None:
    config = {"_target_": target, "lr": 0.1} | ({"momentum": 0.9} if "SGD" in target else {})

    def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            x = torch.full((2, 3, 4, 4), 0.1 * step)
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()

    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 1, 1)).to(
        memory_format=torch.channels_last
    )
    optimizer = optim.build(config, first, "optim.optimizer")
    train(first, optimizer, range(3))

    second = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 1, 1)).to(
        memory_format=torch.channels_last
    )
    second.load_state_dict(first.state_dict())
    resumed = optim.build(config, second, "optim.optimizer")
    saved = {
        name: tensor.contiguous() for name, tensor in optim.state_by_name(optimizer, first, "optim.generator").items()
    }
    assert any(name.startswith("optim.generator.0.weight.") for name in saved)
    optim.load_by_name(resumed, second, "optim.generator", saved)

    train(first, optimizer, range(3, 6))
    train(second, resumed, range(3, 6))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_only_trained_parameters_are_optimized() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    optimizer = optim.build({"_target_": "torch.optim.SGD", "lr": 1.0}, module, "optim.optimizer")
    assert [id(p) for group in optimizer.param_groups for p in group["params"]] == [
        id(p) for p in module[1].parameters()
    ]


@pytest.mark.parametrize("config", [{"_target_": "torch.optim.Nothing"}, {"_target_": "torch.optim.SGD", "rate": 1}])
def test_a_wrong_optimizer_names_the_key(config: dict) -> None:
    with pytest.raises(UserError, match=r"optim\.optimizer: "):
        optim.build(config, nn.Linear(1, 1), "optim.optimizer")


def test_a_schedule_that_does_not_exist_is_named() -> None:
    with pytest.raises(UserError, match=r"cosine_epochs: there is .*did you mean 'cosine_epoch'"):
        optim.check_schedule("cosine_epochs")


def test_state_that_a_checkpoint_would_lose_is_refused() -> None:
    module = nn.Linear(2, 1)
    optimizer = optim.build({"_target_": "torch.optim.SGD", "lr": 1.0}, module, "optim.optimizer")
    optimizer.state[module.weight]["counts"] = 3
    with pytest.raises(UserError, match="SGD keeps 'counts' as int"):
        optim.state_by_name(optimizer, module, "optim.generator")
