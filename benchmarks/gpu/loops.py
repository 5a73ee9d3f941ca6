"""One step at a time, by our loop or the authors', on the same weights and images, which are already on the device."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from omegaconf import DictConfig

from benchmarks import synthetic
from benchmarks.plain import ReleasedPlain
from dira_scale.data.batch import Batch
from dira_scale.data.distort import BatchedDistort
from dira_scale.data.views import ViewSpec
from dira_scale.distributed.collectives import control_group
from dira_scale.distributed.precision import LossScale
from dira_scale.distributed.processes import start
from dira_scale.engine import parallel
from dira_scale.engine.means import Means
from dira_scale.engine.step import begin_stage
from dira_scale.pretrain.config import Pretrain

BATCHES = 4  # different ones, in turn
FEW = 8  # images of a step whose work takes the device no time
STAGE = "dira"


class Ours:
    """What the engine does in a step: a stage's :class:`Step` on one process, monitors and NaN guard on."""

    def __init__(self, composed: DictConfig, config: Pretrain) -> None:
        world = start(config.parallel, config.precision)
        self.device = world.device
        method, adversary = synthetic.networks(composed, config)
        self.images = images(config, self.device)
        self.few = self.images[0].split(max(1, config.data.batch // FEW))[0]
        self.task = synthetic.task(config, world, method, adversary, synthetic.SyntheticImages(method.views))
        batched = BatchedDistort(method.views).to(self.device)  # in a rehearsal on a CPU too
        self.task.objective.distorts = (batched,) * method.views.count
        strategy = parallel.build(world, config.parallel, method)
        plan = next(plan for plan in self.task.stages if plan.name == STAGE)
        self.means = Means()
        accumulate, scale = config.parallel.accumulate, LossScale(config.precision == "fp16")
        self.stage = begin_stage(plan, self.task, strategy, {}, scale, self.means, config.seed, accumulate, world)

    def step(self, number: int, few: bool = False) -> None:
        """Take it, on a batch or on a ``FEW`` of its images."""
        self.stage.step(number, self.few if few else self.images[number % BATCHES])

    def state(self) -> dict[str, torch.Tensor]:
        """All that a step moves: method, adversary, the generator's optimizer."""
        (judge,) = self.task.side_modules
        tensors = {**self.stage.model.module.state_dict(), **judge.module.state_dict(prefix="adversary.")}
        for i, states in enumerate(self.stage.model.optimizer.state.values()):
            tensors |= {f"optimizer.{i}.{k}": v for k, v in states.items() if isinstance(v, torch.Tensor)}
        return tensors

    def losses(self) -> dict[str, float]:
        """The means over the steps since the last call; waits for the device."""
        return {name: value for name, value in self.means.take().items() if name.startswith("loss")}


class Authors:
    """The released code's loop, with torch as it is when nobody sets anything but what they set."""

    def __init__(self, composed: DictConfig, config: Pretrain) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True  # torch's defaults
        method, adversary = synthetic.networks(composed, config)
        self.take = ReleasedPlain(config, method, adversary, self.device)
        self.take.distort = BatchedDistort(method.views).to(self.device)
        self.images = [batch.to(self.device) for batch in images(config, self.device)]
        self.few = self.images[0].split(max(1, config.data.batch // FEW))[0]

    def step(self, number: int, few: bool = False) -> None:
        self.last = self.take(self.few if few else self.images[number % BATCHES])

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


def images(config: Pretrain, device: torch.device) -> list[Batch]:
    """Batches as they are stored, uint8."""
    views = ViewSpec(size=config.data.size)
    return [synthetic.batch(views, config.data.batch, step, device) for step in range(BATCHES)]
