"""One step at a time, on noise that is already on the device: of any command by its blueprint, or the authors' loop."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from torch import Tensor

from benchmarks import synthetic
from benchmarks.plain import ReleasedPlain
from benchmarks.synthetic import BATCHES, batches, blueprint
from dira_scale.train.data import distort
from dira_scale.train.data.distort import BatchedDistort
from dira_scale.train.distributed.collectives import control_group
from dira_scale.train.distributed.precision import LossScale
from dira_scale.train.distributed.processes import start
from dira_scale.train.engine import optim, parallel
from dira_scale.train.engine.means import Means
from dira_scale.train.engine.nan_guard import NaNGuard
from dira_scale.train.engine.step import Step
from dira_scale.train.models.network import moved
from dira_scale.train.schedule import stage_plans

FEW = 8  # samples of a step whose work takes the device no time


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
        sides = [side.module for side in task.side_modules]
        strategy = parallel.build(world, config.parallel, networks[0], sides)
        self.model = strategy.begin(
            lambda module: task.prepare(plan, module),
            lambda module: optim.stage_optimizer(config.optim, module, plan.batch, strategy.kind.fuses),
        )
        guard, scale, self.means = NaNGuard(world.device), LossScale(config.precision == "fp16"), Means()
        given = config.seed, self.accumulate, world.device, config.parallel.attention
        self.take = Step(task, plan, self.model, guard, scale, self.means, *given)
        self.samples = plan.batch
        self.batches = batches(made, plan.batch, world.device)
        self.few = self.batches[0].split(max(1, plan.batch // FEW))[0]

    def step(self, number: int, few: bool = False) -> None:
        """Take it, on a batch or on a ``FEW`` of its samples."""
        self.take(number, self.few if few else self.batches[number % BATCHES])

    def state(self) -> dict[str, Tensor]:
        """All that a step moves: module, side modules, their optimizers."""
        tensors, sides = dict(self.model.module.state_dict()), self.task.side_modules
        for side in sides:
            tensors |= side.module.state_dict(prefix=f"{side.name}.")
        for number, optimizer in enumerate([self.model.optimizer, *(side.optimizer for side in sides)]):
            for i, states in enumerate(optimizer.state.values()):
                tensors |= {f"optimizer {number}.{i}.{k}": v for k, v in states.items() if isinstance(v, Tensor)}
        return tensors

    def copied(self) -> dict[str, Tensor]:
        """Return a copy of :meth:`state`."""
        return {name: tensor.detach().clone() for name, tensor in self.state().items()}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Make :meth:`state` what it was."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

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
