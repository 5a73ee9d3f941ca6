"""The networks of a configuration, built without memory, as one rank of many sees them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore  # private; importing it registers the "fake" backend

from dira_scale import methods
from dira_scale.data.batch import CHANNELS_LAST, Batch
from dira_scale.data.views import Distortion, draw
from dira_scale.methods.adversary import Adversary
from dira_scale.pretraining.config import Pretrain
from dira_scale.pretraining.schedule import batches_of


@contextmanager
def one_rank_of(ranks: int) -> Iterator[None]:
    """A context in which this process is rank 0 of ``ranks``; collectives return shapes without communicating."""
    if ranks == 1:
        yield
        return
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


class Networks:
    """Method and adversary of a configuration as tensors with shapes but no memory.

    Their device reads "cpu", because autocast does not support meta tensors.
    """

    def __init__(self, config: Pretrain, cfg: DictConfig) -> None:
        self.mode = FakeTensorMode()
        self.views = methods.views_of(cfg)
        batch = next(iter(batches_of(config).values()))
        model = OmegaConf.merge(cfg.model, {"weights": None})  # initial values do not matter here
        with torch.device("meta"):
            self.method = methods.build(cfg.method, model, self.views, batch, config.parallel.accumulate)
            self.adversary = Adversary(config.adversary.loss, config.model.dimensions)
        self._channels_last = config.parallel.channels_last
        for module in (self.method, self.adversary):
            module._apply(self._without_memory)
        self.method.train()
        terms = {term for name in batches_of(config) for term in config.stages[name].terms}
        self.method.enter_stage([term for term in self.method.weights if term in terms])
        self.ever_trained = trained(self.method)

    def batch(self, images: int) -> Batch:
        """A rank's part of a step's batch, as the loader returns it."""
        stored = [np.full(images, side) for side in self.views.crop.least or self.views.sides]
        drawn = draw(self.views, 0, 0, np.arange(images), np.zeros(images, np.int64), 0, *stored)[1]
        parameters = (getattr(drawn, field.name) for field in fields(Distortion))
        distortion = Distortion(*map(self.mode.from_tensor, parameters))
        with self.mode:
            sides, count = self.views.sides, self.views.count
            return Batch(
                views=tuple(torch.empty(images, 1, *sides, dtype=torch.uint8) for _ in range(count)),
                distortions=(distortion,) * count,
                index=torch.empty(images, dtype=torch.int64),
                low=torch.empty(images, count),
                high=torch.empty(images, count),
                step=0,
                epoch=0,
                flips=tuple(torch.empty(images, len(sides), dtype=torch.bool) for _ in range(count)),
            )

    def _without_memory(self, tensor: Tensor) -> Tensor:
        layout = CHANNELS_LAST.get(tensor.ndim) if self._channels_last else None
        with self.mode:
            return torch.empty(tensor.shape, dtype=tensor.dtype, memory_format=layout or torch.contiguous_format)


def size(tensors: Any) -> int:
    """Bytes of distinct tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def trained(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that the current stage trains."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
