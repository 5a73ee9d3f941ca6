"""One step at a time, by our loop or by the authors', on the same weights and images, which the device has already."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from omegaconf import DictConfig
from torch import nn

from benchmarks import synthetic
from benchmarks.plain import Released
from dira_scale.data.batch import Batch
from dira_scale.data.views import ViewSpec
from dira_scale.engine import optim, parallel
from dira_scale.engine.means import Means
from dira_scale.engine.step import Step
from dira_scale.pretraining.config import Pretrain
from dira_scale.pretraining.objective import Objective

BATCHES = 4  # different ones, in turn
FEW = 8  # images of a step whose work takes the device no time
# What belongs to a part of a step that `Split` tells apart, by the names of a network's modules.
QUERY, KEY = ("encoder", "projector", "predictor"), ("key_encoder", "key_projector")
DECODER = ("decoder", "head")
STAGE = "dira"


class Loop(Protocol):
    """Weights, optimizers and images of one rung."""

    device: torch.device
    parts: Mapping[str, Sequence[nn.Module]]  # modules by the part of a step that they are

    def step(self, number: int, few: bool = False) -> None:
        """Take it, on a batch or on a ``FEW`` of its images."""

    def losses(self) -> dict[str, float]:
        """Of the steps since the last call, their means; waits for the device."""


class Ours:
    """What the trainer does in a step: :class:`Step` on a strategy of one process, health monitors and guard on."""

    def __init__(self, composed: DictConfig, config: Pretrain) -> None:
        accelerator = parallel.start(config.parallel, config.precision)
        self.device = accelerator.device
        method, adversary = synthetic.networks(composed, config)
        self.images = images(config, self.device)
        self.few = self.images[0].split(max(1, config.data.batch // FEW))[0]
        strategy = parallel.build(config.parallel, config.precision, accelerator, method)
        layout = torch.channels_last if config.parallel.channels_last else torch.contiguous_format
        adversary.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        objective = Objective(strategy.method, adversary, method.views, self.device, config.precision)
        discriminator = optim.build(config.optim.discriminator, list(adversary.parameters()), "optim.discriminator")
        self.means = Means()
        self.take = Step(config, objective, discriminator, 1, self.means)
        stage = config.stages[STAGE]
        strategy.enter_stage(stage.terms, partial(optim.generator, config.optim, batch=config.data.batch), {})
        self.take.enter_stage(stage, strategy)
        named_parts = named(method, getattr(method, "base", None))
        self.parts: Mapping[str, Sequence[nn.Module]] = named_parts | {"discriminator": [adversary.discriminator]}

    def step(self, number: int, few: bool = False) -> None:
        self.take(number, self.few if few else self.images[number % BATCHES])

    def state(self) -> dict[str, torch.Tensor]:
        """All that a step moves: method, adversary, the generator's optimizer."""
        tensors = {**self.take.method.state_dict(), **self.take.adversary.state_dict(prefix="adversary.")}
        for i, states in enumerate(self.take.strategy.optimizer.state.values()):
            tensors |= {f"optimizer.{i}.{k}": v for k, v in states.items() if isinstance(v, torch.Tensor)}
        return tensors

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
        self.few = self.images[0].split(max(1, config.data.batch // FEW))[0]
        parts = named(self.take.network) | {"discriminator": [self.take.discriminator]}
        self.parts: Mapping[str, Sequence[nn.Module]] = parts | {"key": [*parts["key"], *self.take.key_decoder]}

    def step(self, number: int, few: bool = False) -> None:
        self.last = self.take(self.few if few else self.images[number % BATCHES])

    def losses(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.last.items()}


def named(*networks: nn.Module | None) -> dict[str, list[nn.Module]]:
    """The networks' modules by the parts of a step; a wrapped method's encoder is its wrapper's."""
    parts = {"query": QUERY, "key": KEY, "decoder": DECODER}
    found: dict[str, list[nn.Module]] = {}
    for part, names in parts.items():
        modules = {getattr(network, name, None) for network in networks for name in names}
        found[part] = [module for module in modules if isinstance(module, nn.Module)]
    return found


def images(config: Pretrain, device: torch.device) -> list[Batch]:
    """Batches as they are stored, uint8."""
    views = ViewSpec(size=config.data.size)
    return [synthetic.batch(views, config.data.batch, step, device) for step in range(BATCHES)]
