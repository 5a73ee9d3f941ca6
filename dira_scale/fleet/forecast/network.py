"""Tasks without memory: tensors have shapes but no values, as one rank of many sees them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore  # private; importing it registers the "fake" backend

from dira_scale.train.blueprint import Blueprint
from dira_scale.train.data import distort
from dira_scale.train.data.batch import CHANNELS_LAST
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.task import StagePlan, StepTask, TaskBatch
from dira_scale.train.models.network import keeps_channels_last
from dira_scale.train.schedule import stage_plans
from dira_scale.train.shapes import Shapes


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


@dataclass(frozen=True)
class FakeTask:
    """A task whose tensors have no memory. Their device reads "cpu", because autocast does not support meta tensors."""

    task: StepTask
    stages: Sequence[StagePlan]  # all that it trains
    shapes: Shapes  # of its data
    mode: FakeTensorMode  # in which its tensors were made
    world: World
    buffers: Sequence[Tensor] = ()  # that it keeps on the device beside its modules

    def batch(self, samples: int, size: int | None = None) -> TaskBatch:
        """A rank's part of a step's batch, as the loader returns it; ``size``: the stage's."""
        shapes = self.shapes.resized(size) if size else self.shapes
        return fake(shapes.batch(samples), self.mode)

    def ever_trained(self) -> list[nn.Parameter]:
        """Parameters that any stage trains."""
        module, names = self.task.module, dict[nn.Parameter, None]()
        for stage in self.stages:
            self.task.prepare(stage, module)
            names |= dict.fromkeys(trained(module))
        return list(names)


def fake_task(blueprint: Blueprint) -> FakeTask:
    """Return what ``blueprint`` trains, with 8-bit grey images, built as on a GPU."""
    config = blueprint.config
    mode, world = FakeTensorMode(), fake_world(config.precision)
    with torch.device("meta"):
        networks = blueprint.networks()
    for network in networks:
        without_memory(network, mode, config.parallel.channels_last)
    networks[0].train()
    with mode:
        task = blueprint.step(world, networks, distort.build_batched)
    stages = stage_plans(config, lambda batch: 1)
    return FakeTask(task, stages, blueprint.shapes, mode, world, blueprint.buffers(task))


def without_memory(module: nn.Module, mode: FakeTensorMode, channels_last: bool | None) -> None:
    """Fake the tensors of ``module``, which are on the meta device, in place, in the layout that ``moved`` gives."""
    if channels_last is None:
        channels_last = keeps_channels_last(module)

    def faked(tensor: Tensor) -> Tensor:
        layout = CHANNELS_LAST.get(tensor.ndim) if channels_last else None
        with mode:
            return torch.empty(tensor.shape, dtype=tensor.dtype, memory_format=layout or torch.contiguous_format)

    module._apply(faked)


def fake_world(precision: str) -> World:
    """A process on its own."""
    accelerator: Any = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0)
    return World(accelerator, precision)


def fake(value: Any, mode: FakeTensorMode) -> Any:
    """A batch, or a part of it, with its tensors faked where they are."""
    if isinstance(value, Tensor):
        return mode.from_tensor(value)
    if isinstance(value, tuple):
        return tuple(fake(part, mode) for part in value)
    if isinstance(value, Mapping):
        return {key: fake(part, mode) for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: fake(getattr(value, field.name), mode) for field in fields(value)})
    return value


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of distinct tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def trained(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that the current stage trains."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
