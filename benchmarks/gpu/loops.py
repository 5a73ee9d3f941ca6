"""One step at a time, by our loop or by the authors', on the same weights and images, which the device has already."""

from functools import partial
from typing import Protocol

import torch
from omegaconf import DictConfig

from benchmarks import synthetic
from benchmarks.plain import Released
from dira_scale.config import Pretrain
from dira_scale.data.batch import Batch
from dira_scale.data.views import ViewSpec
from dira_scale.train import optim, parallel
from dira_scale.train.metrics import Means
from dira_scale.train.objective import Objective
from dira_scale.train.step import Step

BATCHES = 4  # different ones, in turn
STAGE = "dira"


class Loop(Protocol):
    """Weights, optimizers and images of one rung."""

    device: torch.device

    def step(self, number: int) -> None:
        """Take it."""

    def losses(self) -> dict[str, float]:
        """Of the steps since the last call, their means; waits for the device."""


class Ours:
    """What the trainer does in a step: :class:`Step` on a strategy of one process, health monitors and guard on."""

    def __init__(self, composed: DictConfig, config: Pretrain) -> None:
        accelerator = parallel.start(config.parallel, config.precision)
        self.device = accelerator.device
        method, adversary = synthetic.networks(composed, config)
        self.images = images(config, self.device)
        strategy = parallel.build(config, accelerator, method)
        layout = torch.channels_last if config.parallel.channels_last else torch.contiguous_format
        adversary.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        objective = Objective(strategy.method, adversary, method.views, self.device, config.precision)
        discriminator = optim.build(config.optim.discriminator, list(adversary.parameters()), "optim.discriminator")
        self.means = Means()
        self.take = Step(config, objective, discriminator, 1, self.means)
        stage = config.stages[STAGE]
        strategy.enter_stage(stage.terms, partial(optim.generator, config.optim, batch=config.data.batch), {})
        self.take.enter_stage(stage, strategy)

    def step(self, number: int) -> None:
        self.take(number, self.images[number % BATCHES])

    def losses(self) -> dict[str, float]:
        return {name: value for name, value in self.means.take().items() if name.startswith("loss")}


class Authors:
    """The released code's loop, with torch as it is when nobody sets anything but what they set."""

    def __init__(self, composed: DictConfig, config: Pretrain) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True  # torch's defaults
        self.take = Released(config, *synthetic.networks(composed, config), self.device)
        self.images = [batch.to(self.device) for batch in images(config, self.device)]

    def step(self, number: int) -> None:
        self.last = self.take(self.images[number % BATCHES])

    def losses(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.last.items()}


def images(config: Pretrain, device: torch.device) -> list[Batch]:
    """Batches as they are stored, uint8."""
    views = ViewSpec(size=config.data.size)
    return [synthetic.batch(views, config.data.batch, step, device) for step in range(BATCHES)]
