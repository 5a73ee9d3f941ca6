"""Strategies by name. A strategy holds the complete module between stages and creates each stage's model from it."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.torch_version import TorchVersion

from dira_scale.train.distributed.config import Parallel
from dira_scale.train.distributed.precision import AUTOCAST
from dira_scale.train.distributed.world import World
from dira_scale.train.engine import optim
from dira_scale.train.engine.parallel.compiled import compile_module, take_uncompiled
from dira_scale.train.engine.parallel.mesh import mesh_of, rows_of
from dira_scale.train.engine.parallel.model import MakeOptimizer, Prepare, StageModel
from dira_scale.train.engine.parallel.narrow import narrow
from dira_scale.train.engine.parallel.recompute import checkpoint_activations, groups
from dira_scale.train.engine.parallel.sharded import ShardedModel, copied
from dira_scale.train.engine.parallel.zero import ZeROModel
from dira_scale.train.models.cut import Cut, cut_all
from dira_scale.train.models.momentum import local_shard
from dira_scale.train.models.network import Encoder, keeps_channels_last, moved


class FullyShardedModel(ShardedModel):
    """ZeRO stage 3 in torch. Momentum networks are sharded in the same way as the encoder that they follow."""

    # In torch 2.11 the backward pass of the first step fails after a loss was differentiated for the monitors ("data is
    # not allocated yet"). 2.13 is the first release that we have seen work.
    differentiable = TorchVersion(torch.__version__) >= "2.13"

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        assert isinstance(self.module, FSDPModule)
        self.module.set_requires_gradient_sync(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """After the last micro-batch FSDP2's parameters have gradients: hand them to the parts that are stepped."""
        super().backward(loss)
        with torch.no_grad():
            for part in self._stepped():
                parameter = optim.whole(part)
                if parameter is not part and parameter.grad is not None:
                    part.data = local_shard(parameter)  # torch 2.9 moves those that it pads, in the first pass
                    part.grad, parameter.grad = local_shard(parameter.grad), None

    @torch.no_grad()
    def gradients(self) -> list[Tensor]:
        return [local_shard(part.grad) for part in self._stepped() if part.grad is not None]

    def _stepped(self) -> list[nn.Parameter]:
        return [part for group in self.optimizer.param_groups for part in group["params"]]

    def _shard(self, forward: nn.Module, make: MakeOptimizer) -> None:
        device, ranks = self.world.device, dist.get_world_size()
        shard = self.world.shard or ranks
        mesh = init_device_mesh(device.type, (ranks,)) if shard == ranks else mesh_of(device.type, ranks, shard)
        self.group = mesh.get_group(mesh.ndim - 1)
        for group in groups(self.module):
            fully_shard(group, mesh=mesh)
        fully_shard(self.module, mesh=mesh)
        self.fill()
        dtype = AUTOCAST.get(self.world.precision)
        if dtype and shard > 1 and self.differentiable:  # torch 2.11 moves what it pads, and forgets what narrow did
            narrow(self.module, dtype, device)
        self.wrapped = forward.train()
        self.optimizer = make(self.module)

    @torch.no_grad()
    def fill(self) -> None:
        """Give the shards, which have no memory yet, the rows of the original, which keeps none."""
        named = dict(self._original.named_parameters())
        originals = {id(shard): named[name] for name, shard in self.module.named_parameters()}

        def filled(tensor: Tensor) -> Tensor:
            if not (isinstance(tensor, DTensor) and tensor.is_meta):
                return tensor
            original, mesh = originals[id(tensor)], tensor.device_mesh
            local = local_shard(original).to(mesh.device_type)
            if isinstance(original, Cut):
                original.local = local.new_empty(0)
            if mesh.ndim > 1:  # other processors may have drawn other weights
                dist.broadcast(local, group=mesh.get_group(0), group_src=0)
            return DTensor.from_local(local, mesh, tensor.placements, shape=tensor.shape, stride=tensor.stride())

        self.module._apply(filled)

    @torch.no_grad()
    def hand_back(self, original: nn.Module) -> None:
        shards = self.module.state_dict(keep_vars=True)
        for name, tensor in original.state_dict(keep_vars=True).items():
            if isinstance(tensor, Cut):
                tensor.local = local_shard(shards[name]).cpu()
            else:
                tensor.copy_(local_shard(shards[name]))


class Strategy:
    """Replicas (``ddp``)."""

    kind: type[StageModel] = StageModel

    def __init__(self, world: World, parallel: Parallel, module: nn.Module) -> None:
        self.world, self.parallel = world, parallel
        # Unsharded, as the last stage has left it; it is read, or loaded into, only between stages.
        self.module = on_device(module, world, parallel, channels_last=parallel.channels_last)

    def begin(self, prepare: Prepare, make: MakeOptimizer) -> StageModel:
        """The model of the next stage (see :class:`StageModel`). Collective."""
        return StageModel(self.world, self.module, prepare, make)

    def end(self, model: StageModel) -> None:
        """End the stage of ``model``, which must not be used after this. Collective."""


class Sharded(Strategy):
    """Sharded kinds: ``module`` is on the CPU, its sharded copy exists during a stage. FSDP2's has this process's rows
    (:class:`Cut`), and during a stage no values."""

    kind: type[ShardedModel]

    def __init__(self, world: World, parallel: Parallel, module: nn.Module, kind: type[ShardedModel]) -> None:
        self.world, self.parallel, self.module, self.kind = world, parallel, module, kind
        self.by_rows = parallel.strategy == "fsdp2"
        if self.by_rows:
            cut_all(module, rows_of(world))

    def begin(self, prepare: Prepare, make: MakeOptimizer) -> StageModel:
        # Parameters are flattened, so they must be contiguous; feature maps follow the layout of the image.
        module = copied(self.module, "meta" if self.by_rows else None)
        module = on_device(module, self.world, self.parallel, channels_last=False)
        channels_last = self.parallel.channels_last
        if channels_last is None:
            channels_last = keeps_channels_last(module)
        for encoder in (part for part in module.modules() if isinstance(part, Encoder)):
            encoder.channels_last = channels_last
        return self.kind(self.world, self.module, module, prepare, make)

    def end(self, model: StageModel) -> None:
        assert isinstance(model, ShardedModel)
        model.hand_back(self.module)
        model.release()


def build(world: World, parallel: Parallel, module: nn.Module, sides: Iterable[nn.Module] = ()) -> Strategy:
    """The strategy ``parallel.strategy`` for ``module``, whole or cut, on the CPU. ``sides``: side modules, on the
    device, which stay whole and are compiled too if configured."""
    take_uncompiled()  # of an earlier run of this process
    for side in sides if parallel.compile is True else ():
        compile_module(side)
    match parallel.strategy:
        case "fsdp2":
            return Sharded(world, parallel, module, FullyShardedModel)
        case "zero1" | "zero2" | "zero3":
            return Sharded(world, parallel, module, ZeROModel)
        case _:
            return Strategy(world, parallel, module)


def on_device(module: nn.Module, world: World, parallel: Parallel, channels_last: bool | None) -> nn.Module:
    """``module`` on the device, in its memory format; recomputed by block and compiled by region if configured."""
    module = moved(module, world.device, channels_last)
    if parallel.checkpoint_activations:
        checkpoint_activations(module)
    if parallel.compile:
        compile_module(module)
    return module
