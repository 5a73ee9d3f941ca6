"""Schedules and LARS against their formula; parameter groups; optimizer state survives a round trip by name."""

import copy
import json
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from train.runs.writers import Kept

from dira_scale.base.errors import UserError
from dira_scale.fleet.forecast.network import one_rank_of
from dira_scale.train.engine import optim
from dira_scale.train.engine.config import Optim
from dira_scale.train.engine.parallel import StageModel
from dira_scale.train.engine.parallel.strategy import FullyShardedModel
from dira_scale.train.engine.parallel.zero import ZeROModel
from dira_scale.train.engine.state import RunState
from dira_scale.train.engine.step import StageRun
from dira_scale.train.engine.task import StagePlan


def test_lamb_does_not_clip_by_itself() -> None:
    """Its own bound is 1 by default; clipping is ``optim.clip``'s."""
    config, parameter = {"_target_": "timm.optim.Lamb", "lr": 0.1}, nn.Parameter(torch.ones(8))
    assert optim.build(config, [parameter], "optim.optimizer").param_groups[0]["max_grad_norm"] is None
    with pytest.raises(UserError, match=r"optim.optimizer.max_grad_norm: gradients are clipped by optim.clip=1"):
        optim.build(config | {"max_grad_norm": 1}, [parameter], "optim.optimizer")


@pytest.mark.parametrize("step", [0, 1, 293, 294, 100_000])
def test_cosine_per_epoch_is_the_released_formula(step: int) -> None:
    epochs, per_epoch = 800, 294
    expected = 0.03 * 0.5 * (1.0 + math.cos(math.pi * (step // per_epoch) / epochs))
    assert optim.learning_rate("cosine_epoch", 0.03, step, epochs * per_epoch, per_epoch) == pytest.approx(expected)


@pytest.mark.parametrize("target", ["torch.optim.AdamW", "torch.optim.SGD", "timm.optim.Lars"])
def test_training_goes_on_bit_for_bit_after_a_round_trip_by_name(target: str) -> None:
    optimizer_config = {"_target_": target, "lr": 0.1, "weight_decay": 1e-3}
    optimizer_config |= {} if "Adam" in target else {"momentum": 0.9}
    config = settings(optimizer=optimizer_config, one_dimensional={"weight_decay": 0}, fixed_rate=[])

    def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            x = torch.full((2, 3, 4, 4), 0.1 * step)
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()

    torch.manual_seed(0)
    layers = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 1, 1)
    first = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    optimizer = optim.stage_optimizer(config, first, 2)
    train(first, optimizer, range(3))

    second = copy.deepcopy(first)
    resumed = optim.stage_optimizer(config, second, 2)
    saved = {
        name: tensor.contiguous() for name, tensor in optim.state_by_name(optimizer, first, "optim.generator").items()
    }
    assert any(name.startswith("optim.generator.0.weight.") for name in saved)
    optim.load_by_name(resumed, second, "optim.generator", Kept(saved))

    train(first, optimizer, range(3, 6))
    train(second, resumed, range(3, 6))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


SGD = {"_target_": "torch.optim.SGD", "lr": 1.0, "momentum": 0.9, "weight_decay": 1e-4}
LARS = {"_target_": "timm.optim.Lars", "lr": 0.2, "momentum": 0.9, "weight_decay": 1e-6, "trust_coeff": 0.001}


def settings(**changes: Any) -> Optim:
    """No groups, no warm-up, rates as they stand."""
    plain = {"optimizer": SGD, "one_dimensional": {}, "fixed_rate": [], "reference_batch": None}
    return Optim(**(plain | {"schedule": "constant", "warmup_epochs": 0, "end": 0.0} | changes))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 2, 1), nn.Flatten())
    return nn.Sequential(OrderedDict(body=body, predictor=nn.Linear(8, 3)))


def rates(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, tuple[float, float]]:
    """(rate, weight decay) by parameter name."""
    names = {id(p): name for name, p in module.named_parameters()}
    groups = optimizer.param_groups
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize("step", [0, 1, 11_759, 11_760, 12_000, 600_000, 1_175_999])
def test_warm_up_and_cosine_are_barlow_twins_formula(step: int) -> None:
    """Its released code at batch 2,048 of 75,312 images, 1,000 epochs of which 10 warm up, weights' rate 0.2."""
    loader, batch = 1176, 2048
    base, warm, total = batch / 256, 10 * loader, 1000 * loader
    if step < warm:
        expected = base * step / warm
    else:
        q = 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))
        expected = base * q + base * 0.001 * (1 - q)
    peak = 0.2 * batch / 256
    assert optim.learning_rate("cosine", peak, step, total, loader, warm, 0.001) == pytest.approx(0.2 * expected)


def by_torch(schedule: Callable[[torch.optim.Optimizer], Any], losses: list[float] | None, epochs: int) -> list[float]:
    """The rate of each epoch under torch's scheduler, the first one's being 0.2."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    scheduler, rates = schedule(optimizer), []
    for epoch in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*([] if losses is None else [losses[epoch]]))
    return rates


def test_steps_down_are_torchs() -> None:
    expected = by_torch(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.3), None, 12)
    actual = [optim.learning_rate("step", 0.2, step, 84, 7, factor=0.3, period=21) for step in range(84)]
    assert actual == pytest.approx(np.repeat(expected, 7))


def test_steps_down_after_given_epochs_are_torchs() -> None:
    expected = by_torch(lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 8, 9], 0.1), None, 12)
    actual = [optim.learning_rate("step", 0.2, step, 84, 7, factor=0.1, period=(42, 56, 63)) for step in range(84)]
    assert actual == pytest.approx(np.repeat(expected, 7))


@pytest.mark.parametrize("lowest", [0.0, 0.1])
def test_reduction_on_plateaus_is_torchs_also_from_a_checkpoint(lowest: float) -> None:
    """Losses fall slowly, some by less than the threshold, and do not fall; resumed in every epoch."""
    losses = (1 - 0.01 * np.sqrt(np.arange(60)) + np.random.default_rng(0).normal(0, 0.008, 60)).tolist()
    losses[30:33] = [min(losses[:30]) * share for share in (0.99995, 0.9999, 0.99985)]
    config = settings(schedule="plateau", factor=0.5, patience=3, end=lowest)
    state, actual = RunState(), []
    for loss in losses:
        actual.append(optim.learning_rate("plateau", 0.2, 99, 100, 7) * state.rate_factor)
        state.reduce_on_plateau(loss, 1, config)
        state = RunState(**json.loads(json.dumps(asdict(state))))
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    expected = by_torch(lambda o: plateau(o, factor=0.5, patience=3, min_lr=lowest * 0.2), losses, 60)
    assert actual == pytest.approx(expected) and len({*expected}) > 3
    state.advance(7, 7)
    assert state == RunState(stage=1, epochs=1.0)  # the next stage has a rate of its own


@pytest.mark.parametrize("more", [{}, {"nesterov": True}, {"weight_decay": 0.1}, {"momentum": 0.0}])
def test_a_fused_sgd_takes_gradients_that_come_late(more: dict[str, Any]) -> None:
    """Its kernel refuses momenta of which some are missing; the steps are those of SGD that is not fused."""

    def train(fused: bool) -> list[torch.Tensor]:
        parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
        config = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "fused": fused} | more
        optimizer = optim.build(config, parameters, "optim.optimizer")
        for step in range(4):
            parameters[0].grad = torch.full((3,), step + 1.0)
            parameters[1].grad = torch.full((2,), step - 2.0) if step >= 2 else None
            optimizer.step()
        return parameters

    for actual, expected in zip(train(True), train(False), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_kernels_are_fused_where_the_strategy_has_them(name: str) -> None:
    """ZeRO says that it does not want them. torch has no fused SGD for DTensors, so FSDP2's parts are plain tensors.
    (The meta device stands for a GPU.)"""

    def fused(module: nn.Module, fuses: bool) -> bool:
        config = settings(optimizer={"_target_": f"torch.optim.{name}", "lr": 0.1})
        (group,) = optim.stage_optimizer(config, module, 32, fuses).param_groups
        return bool(group["fused"]) and {type(part) for part in group["params"]} == {nn.Parameter}

    whole = nn.Linear(2, 4, device="meta")
    assert fused(whole, StageModel.fuses) and not fused(whole, ZeROModel.fuses)
    with one_rank_of(2):
        fully_shard(whole, mesh=init_device_mesh("cpu", (2,)))
        assert fused(whole, FullyShardedModel.fuses)


def test_biases_and_norms_have_settings_of_their_own_and_modules_a_fixed_rate() -> None:
    module = network()
    config = settings(one_dimensional={"lr": 0.5, "weight_decay": 0}, fixed_rate=["predictor"], reference_batch=256)
    optimizer = optim.stage_optimizer(config, module, 64)
    assert rates(optimizer, module) == {
        name: (0.125, 0) if parameter.ndim == 1 else (0.25, 1e-4) for name, parameter in module.named_parameters()
    }
    names = {id(p): name for name, p in module.named_parameters()}
    fixed = {names[id(p)] for group in optimizer.param_groups if group["fixed_rate"] for p in group["params"]}
    assert fixed == {"predictor.weight", "predictor.bias"}


def test_weight_decay_goes_from_its_own_to_its_end_by_half_a_cosine_where_it_is_not_0() -> None:
    """DINO's released schedule, over a stage and over the second half of a run; from 0.04 to 0.4."""
    config = settings(optimizer=SGD | {"weight_decay": 0.04}, one_dimensional={"weight_decay": 0}, weight_decay_end=0.4)
    task, module = SimpleNamespace(optim=config, set_progress=lambda *_: None), network()
    optimizer = optim.stage_optimizer(config, module, 32)
    model = SimpleNamespace(optimizer=optimizer, module=module)
    for span, before, steps in ((None, 0, 100), ((100, 200), 100, 200)):
        plan = StagePlan("di", 32, 100, 10, span=span)
        stage = StageRun(plan, model, None, None, None)  # type: ignore[arg-type]
        for done in (0, 30, 99):
            stage.set_pace(task, RunState(step=done))  # type: ignore[arg-type]
            expected = 0.4 + 0.5 * (0.04 - 0.4) * (1 + math.cos(math.pi * (before + done) / steps))
            decays = {group["weight_decay"] for group in optimizer.param_groups}
            assert sorted(decays) == pytest.approx([0, expected])
    with pytest.raises(UserError, match=r"optim.weight_decay_end: Rprop has no weight_decay; use null"):
        rprop = settings(optimizer={"_target_": "torch.optim.Rprop", "lr": 0.1}, weight_decay_end=0.4)
        optim.stage_optimizer(rprop, module, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fixed_rate": ["predicter"]}, "no module is named 'predicter'; did you mean 'predictor'"),
        ({"fixed_rate": ["weight"]}, "no module is named 'weight'"),
        ({"one_dimensional": {"weigth_decay": 0}}, r"one_dimensional\.weigth_decay: SGD has .*'weight_decay'"),
        ({"optimizer": {"_target_": "torch.optim.Nothing"}}, r"optim\.optimizer\._target_: .*Nothing"),
        (
            {"optimizer": SGD | {"rate": 1}},
            r"optim\.optimizer\.rate: SGD has no such setting, only lr, .*~optim\.optimizer\.rate takes",
        ),
        ({"optimizer": SGD | {"momentun": 1}}, r"optim\.optimizer\.momentun: .*did you mean 'momentum'"),
        ({"optimizer": SGD | {"lr": "abc"}}, r"^optim\.optimizer\.lr=abc: expected a number$"),
        ({"one_dimensional": {"lr": "abc"}}, r"^optim\.one_dimensional\.lr=abc: expected a number$"),
        ({"optimizer": SGD | {"lr": -1.0}}, r"optim\.optimizer: Invalid learning rate"),
        ({"optimizer": {"_target_": "builtins.list"}}, "is not a torch.optim.Optimizer"),
    ],
)
def test_a_wrong_optimizer_names_the_key(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        optim.stage_optimizer(settings(**changes), network(), 32)


def test_lars_is_the_plain_formula_with_barlow_twins_exclusions() -> None:
    """d = g + wd p, q = 0.001 |p| / |d|, mu = 0.9 mu + q d, p -= lr mu; one-dimensional ones without wd and q.

    timm's divides by |g| + wd |p| + 1e-8 instead of |d|: larger by at most 2 wd |p| / |g|, which bounds the step's
    relative error. After 20 steps with wd = 1e-6 (and no tiny gradient) both are within 1e-5 of each other.
    """
    module = network().double()
    names = dict(module.named_parameters())
    p = {name: parameter.detach().clone() for name, parameter in names.items()}
    mu = {name: torch.zeros_like(value) for name, value in p.items()}
    config = settings(optimizer=LARS, one_dimensional={"lr": 0.0048, "weight_decay": 0})
    optimizer = optim.stage_optimizer(config, module, 256)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        for name, parameter in names.items():
            g = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.1
            parameter.grad = g.clone()
            d, lr = g, 0.0048
            if g.ndim > 1:
                d, lr = g + 1e-6 * p[name], 0.2
                d = d * 0.001 * p[name].norm() / d.norm()
            mu[name] = 0.9 * mu[name] + d
            p[name] = p[name] - lr * mu[name]
        optimizer.step()
    start = dict(network().double().named_parameters())
    for name, parameter in names.items():
        moved = (p[name] - start[name]).norm()
        assert moved > 0 and (parameter - p[name]).norm() <= (1e-5 if parameter.ndim > 1 else 1e-12) * moved, name


def test_state_that_a_checkpoint_would_lose_is_refused() -> None:
    module = nn.Linear(2, 1)
    optimizer = optim.stage_optimizer(settings(), module, 32)
    optimizer.state[module.weight]["counts"] = 3
    with pytest.raises(UserError, match="SGD keeps 'counts' as int"):
        optim.state_by_name(optimizer, module, "optim.generator")
