"""One step at a time, on noise that is already on the device: of any command by its blueprint, or the authors' loop."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.nn import functional as F

from benchmarks import synthetic
from benchmarks.plain import ReleasedPlain
from dira_scale.config.compose import compose
from dira_scale.data import distort
from dira_scale.data.distort import BatchedDistort
from dira_scale.distributed.collectives import control_group
from dira_scale.distributed.precision import LossScale
from dira_scale.distributed.processes import start
from dira_scale.engine import optim, parallel
from dira_scale.engine.means import Means
from dira_scale.engine.nan_guard import NaNGuard
from dira_scale.engine.step import Step
from dira_scale.models.network import moved
from dira_scale.training.blueprint import Blueprint, blueprint_of
from dira_scale.training.schedule import stage_plans

BATCHES = 4  # different ones, in turn
FEW = 8  # samples of a step whose work takes the device no time
COARSE = 8  # noise is smooth: of so many values along an axis


def blueprint(command: str, *words: str) -> Blueprint:
    """What ``command`` trains by these words, whatever its data."""
    return blueprint_of(command, compose(command, ["data.shards=none", *words]))


class Ours:
    """What the engine does in a step of a command's last stage, on one process, monitors and NaN guard on."""

    def __init__(self, command: str, *words: str) -> None:
        made = blueprint(command, *words)
        config = made.config
        world = start(config.parallel, config.precision)
        self.device, self.accumulate = world.device, config.parallel.accumulate
        torch.manual_seed(config.seed)
        networks = made.networks()
        for network in networks[1:]:
            moved(network, world.device, config.parallel.channels_last)
        self.task = task = made.step(world, networks, distort.build_batched)
        self.plan = plan = stage_plans(config, lambda batch: 1)[-1]
        strategy = parallel.build(world, config.parallel, networks[0])
        self.model = strategy.begin(
            lambda module: task.prepare(plan, module),
            lambda module: optim.stage_optimizer(config.optim, module, plan.batch),
            {},
        )
        guard, scale, self.means = NaNGuard(world.device), LossScale(config.precision == "fp16"), Means()
        self.take = Step(
            task, plan, self.model, guard, scale, self.means, config.seed, self.accumulate, world.device
        )  # fmt: skip
        self.samples = plan.batch
        self.batches = batches(made, plan.batch, world.device)
        self.few = self.batches[0].split(max(1, plan.batch // FEW))[0]

    def step(self, number: int, few: bool = False) -> None:
        """Take it, on a batch or on a ``FEW`` of its samples."""
        self.take(number, self.few if few else self.batches[number % BATCHES])

    def state(self) -> dict[str, Tensor]:
        """All that a step moves: module, side modules, the module's optimizer."""
        tensors = dict(self.model.module.state_dict())
        for side in self.task.side_modules:
            tensors |= side.module.state_dict(prefix=f"{side.name}.")
        for i, states in enumerate(self.model.optimizer.state.values()):
            tensors |= {f"optimizer.{i}.{k}": v for k, v in states.items() if isinstance(v, Tensor)}
        return tensors

    def losses(self) -> dict[str, float]:
        """The means over the steps since the last call; waits for the device."""
        return {name: value for name, value in self.means.take().items() if name.startswith("loss")}


class Authors:
    """The released code's loop, with torch as it is when nobody sets anything but what they set."""

    def __init__(self, command: str, *words: str) -> None:
        made = blueprint(command, *words)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True  # torch's defaults
        torch.manual_seed(made.config.seed)
        method, adversary = made.networks()
        self.take = ReleasedPlain(made.config, method, adversary, self.device)  # type: ignore[arg-type]
        self.take.distort = BatchedDistort(made.views).to(self.device)
        self.samples = made.config.data.batch
        self.batches = [batch.to(self.device) for batch in batches(made, self.samples, self.device)]
        self.few = self.batches[0].split(max(1, self.samples // FEW))[0]

    def step(self, number: int, few: bool = False) -> None:
        self.last = self.take(self.few if few else self.batches[number % BATCHES])

    def losses(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.last.items()}


@contextmanager
def alone() -> Iterator[None]:
    """A loop of ours within leaves no process group of one, which sharded strategies start, for the next one."""
    with mock.patch.dict(os.environ):
        try:
            yield
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            control_group.cache_clear()
            AcceleratorState._reset_state(reset_partial_state=True)


def loopback() -> bool:
    """Whether this machine reaches itself."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError:
        return False
    return True


def turn(loop: Any, number: int, steps: int, few: bool = False) -> float:
    """Seconds of one of ``steps`` steps from ``number`` on."""
    wait = synthetic.wait(loop.device)
    wait()
    began = time.perf_counter()
    for i in range(steps):
        loop.step(number + i, few)
    wait()
    return (time.perf_counter() - began) / steps


def batches(made: Blueprint, samples: int, device: torch.device) -> list[Any]:
    """Batches as a loader would return them, on ``device``; a function of their number."""
    return [
        filled(made.shapes.batch(samples), torch.Generator().manual_seed(number), device) for number in range(BATCHES)
    ]


def filled(value: Any, generator: torch.Generator, device: torch.device) -> Any:
    """A batch, or a part of it, on ``device``, with noise in its pixels, and both answers among its labels."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        if parts.get("low") is not None:
            parts |= {"low": torch.zeros_like(parts["low"]), "high": torch.full_like(parts["high"], 255)}
        if parts.get("views"):
            parts["views"] = tuple(noise(view, generator) for view in parts["views"])
        parts |= {k: answers(parts[k]) for k in ("labels", "mask", "index", "images", "flips") if k in parts}
        return replace(value, **{name: filled(part, generator, device) for name, part in parts.items()})
    if isinstance(value, tuple):
        return tuple(filled(part, generator, device) for part in value)
    if isinstance(value, dict):
        return {key: filled(part, generator, device) for key, part in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Smooth noise from 0 to 255 in the place of a view [b, C, *size]."""
    coarse = torch.rand(*like.shape[:2], *[COARSE] * (like.dim() - 2), generator=generator)
    return (F.interpolate(coarse, like.shape[2:], mode={4: "bilinear", 5: "trilinear"}[like.dim()]) * 255).to(
        like.dtype
    )


def answers(value: Any) -> Any:
    """Zeros and ones in turn."""
    if isinstance(value, tuple):
        return tuple(map(answers, value))
    return value if value is None else torch.arange(value.numel()).view(value.shape).remainder(2).to(value.dtype)
