"""DeepSpeed's ZeRO (Rajbhandari et al., SC 2020), stages 1 to 3, through Accelerate
(``train/distributed/deepspeed.py``)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from dira_scale.base.errors import UserError
from dira_scale.train.distributed.collectives import rank
from dira_scale.train.distributed.world import World
from dira_scale.train.engine import optim
from dira_scale.train.engine.parallel.model import MODULE, OPTIMIZER, MakeOptimizer, piece
from dira_scale.train.engine.parallel.sharded import ShardedModel
from dira_scale.train.models.momentum import local_shard, local_start
from dira_scale.train.runs.checkpoint import CheckpointTensor, StoredTensors

ALONE = 0, 1  # no other process holds the same


class ZeROModel(ShardedModel):
    """Stage 1 shards optimizer states, 2 also gradients, 3 also parameters, including those of momentum networks."""

    differentiable = False  # DeepSpeed's hooks expect one backward pass per forward pass
    fuses = False  # its partitions are one tensor a group, on the CPU if offloaded: nothing is gained

    def _shard(self, forward: nn.Module, make: MakeOptimizer) -> None:
        self.optimizer = make(self.module)
        refuse_layerwise(self.optimizer, self.module)
        self._deepspeed, _ = self.world.accelerator.prepare(_DictOutput(forward, self.world), self.optimizer)
        self.wrapped = _DataclassOutput(self._deepspeed).train()
        self.stage3, self.offload = self._deepspeed.zero_optimization_stage() == 3, self._deepspeed.zero_cpu_offload()

    def release(self) -> None:
        self.world.accelerator.free_memory()  # destroys the engine
        del self._deepspeed
        if self.stage3:  # DeepSpeed's global references to an engine's modules keep all its partitions alive
            from deepspeed.runtime.zero import parameter_offload
            from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

            parameter_offload.FWD_MODULE_STACK.clear()
            cached = PartitionedParameterCoordinator._PartitionedParameterCoordinator__params_to_release
            for cell in cached.__closure__ or ():
                if hasattr(cell.cell_contents, "cache_clear"):
                    cell.cell_contents.cache_clear()
        super().release()

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        self._deepspeed.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        self._deepspeed.backward(loss)

    def gradients(self) -> list[Tensor]:
        zero = self._deepspeed.optimizer
        if self.offload:
            return [flat.grad for flat in self._flat() if flat.grad is not None]
        return [part for parts in zero.averaged_gradients.values() for part in parts]

    def step(self) -> None:
        self._deepspeed.step()

    def skip(self) -> None:
        self._deepspeed.step()  # itself skips a step whose norm is not finite

    def _flat(self) -> list[Tensor]:
        """This process's fp32 partitions, one for each group of parameters."""
        zero = self._deepspeed.optimizer
        return zero.fp32_partitioned_groups_flat if self.stage3 else zero.single_partition_of_fp32_groups

    def local_tensors(self) -> dict[str, Tensor]:
        """In stage 3 without the padding of parameters that do not divide evenly: DeepSpeed leaves it uninitialised, so
        it is sometimes not finite."""
        if not self.stage3:
            return super().local_tensors()
        from deepspeed.utils import safe_get_local_optimizer_state

        module_state = self.module.state_dict(keep_vars=True)
        tensors = {f"{MODULE}.{name}": _unpadded(t, local_shard(t)) for name, t in module_state.items()}
        for name, parameter, states in self._states():
            for key, value in states.items():
                if isinstance(value, Tensor) and value.ndim:
                    part = safe_get_local_optimizer_state(parameter, key)
                    tensors[f"{OPTIMIZER}.{name}.{key}"] = _unpadded(parameter, part)
        return tensors

    def module_pieces(self) -> dict[str, CheckpointTensor]:
        if not self.stage3:
            return super().module_pieces()
        tensors = self.module.state_dict(keep_vars=True)
        pieces = dict[str, CheckpointTensor]()
        for name, tensor in tensors.items():
            if isinstance(tensor, nn.Parameter):
                held = _unpadded(tensor, local_shard(tensor))
                pieces[name] = CheckpointTensor(shape(tensor), held, local_start(tensor), ALONE)
            else:
                pieces[name] = piece(tensor)
        return pieces

    def whole(self, tensor: Tensor) -> Tensor:
        if not self.stage3 or not isinstance(tensor, nn.Parameter):
            return tensor
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([tensor]):
            return tensor.detach().clone()

    def _states(self) -> Iterator[tuple[str, nn.Parameter, dict[str, Tensor]]]:
        """Name and parameter, with the optimizer's state of the partition that contains it."""
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        zero = self._deepspeed.optimizer
        groups: list[list[nn.Parameter]] = zero.fp16_groups if self.stage3 else zero.bit16_groups
        for parameters, flat in zip(groups, self._flat(), strict=True):
            for parameter in parameters:
                yield names[id(parameter)], parameter, self.optimizer.state.setdefault(flat, {})

    def _link_states(self) -> None:
        """Make DeepSpeed find the states of all parameters: after its first step it knows only the first group's."""
        zero = self._deepspeed.optimizer
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()

    def pieces(self) -> dict[str, CheckpointTensor]:
        pieces = {f"{MODULE}.{name}": part for name, part in self.module_pieces().items()}
        if not self.stage3:
            self._link_states()
        for name, parameter, states in self._states():
            for key, value in optim.state_tensors(states, self.optimizer, OPTIMIZER).items():
                part = piece(value)  # a scalar
                if value.ndim:
                    held, start = self._fragment(parameter, key)
                    part = CheckpointTensor(shape(parameter), held, start, ALONE)
                pieces[f"{OPTIMIZER}.{name}.{key}"] = part
        return pieces

    def load(self, stored: StoredTensors, prefix: str) -> None:
        from deepspeed.utils import safe_set_local_optimizer_state

        found: list[tuple[nn.Parameter, str, str]] = []
        owners = {f"{prefix}.{name}": (parameter, states) for name, parameter, states in self._states()}
        for full, tensor in stored.tensors.items():
            owner, _, key = full.rpartition(".")
            if owner in owners:
                parameter, states = owners[owner]
                if tensor.shape:
                    found.append((parameter, key, full))
                states.setdefault(key, None if tensor.shape else stored[full])  # type: ignore[arg-type]
        for flat in self._flat():
            states = self.optimizer.state[flat]
            states |= {key: torch.zeros_like(flat) for key, value in states.items() if value is None}
        if found and not self.stage3:
            self._link_states()
        for parameter, key, full in found:
            held, first = self._fragment(parameter, key)
            values = stored.part_of(full, held, first)
            if self.stage3:  # the state itself may be on the CPU
                safe_set_local_optimizer_state(
                    parameter, F.pad(values, (0, local_shard(parameter).numel() - values.numel())), key
                )
            else:
                held.copy_(values)

    def _fragment(self, parameter: nn.Parameter, key: str) -> tuple[Tensor, int]:
        """What this process holds of the parameter's state ``key``, and how many of its elements are before that."""
        if self.stage3:
            from deepspeed.utils import safe_get_local_optimizer_state

            return _unpadded(parameter, safe_get_local_optimizer_state(parameter, key)), local_start(parameter)
        fragment = vars(parameter)["_hp_mapping"]
        if fragment is None:
            return torch.empty(0), 0
        return fragment.get_optim_state_fragment(key), fragment.lp_fragment_address.start


class _DictOutput(nn.Module):
    """Returns a dataclass's differentiable fields as a dict: DeepSpeed's hooks do not see into dataclasses."""

    def __init__(self, forward: nn.Module, world: World) -> None:
        super().__init__()
        self.inner, self.world = forward, world

    def forward(self, *inputs: Any) -> Any:
        with self.world.autocast():  # again: on a GPU DeepSpeed exits ours
            out = self.inner(*inputs)
        if isinstance(out, Tensor):
            return out
        assert is_dataclass(out), "Task.prepare: the module returns a tensor, or a dataclass of tensors"
        differentiable = dict[str, Any]()
        for field in fields(out):
            value = getattr(out, field.name)
            parts = value.values() if isinstance(value, dict) else (value,)
            if any(isinstance(part, Tensor) and part.requires_grad for part in parts):
                differentiable[field.name] = value
        return differentiable, [out]


class _DataclassOutput(nn.Module):
    """DeepSpeed's engine, with the outputs of :class:`_DictOutput` put back into the dataclass."""

    def __init__(self, engine: nn.Module) -> None:
        super().__init__()
        self.engine = engine

    def forward(self, *inputs: Any) -> Any:
        result = self.engine(*inputs)
        if isinstance(result, Tensor):
            return result
        values, (out,) = result
        return replace(out, **values)


def refuse_layerwise(optimizer: Optimizer, module: nn.Module) -> None:
    """Raise UserError for an optimizer that ZeRO's flat partitions may turn into another algorithm, and a ``module``
    that sets trained parameters itself, of which ZeRO trains copies."""
    for part in module.modules():
        if getattr(part, "sets_parameters", False):
            raise UserError(
                f"{type(part).__name__} sets parameters after each step, and ZeRO trains copies of them: use "
                "parallel=fsdp2 or parallel=ddp"
            )
    name = type(optimizer).__name__
    if name not in optim.ELEMENTWISE:
        raise UserError(
            f"optim.optimizer: {name} may need complete layers, and ZeRO splits them: use parallel=fsdp2 "
            f"or parallel=ddp; or one of {', '.join(optim.ELEMENTWISE)} (optim=sgd_simsiam, optim=adamw)"
        )


def shape(parameter: nn.Parameter) -> torch.Size:
    """The full parameter's shape."""
    return getattr(parameter, "ds_shape", parameter.shape)


def _unpadded(tensor: Tensor, part: Tensor) -> Tensor:
    """This process's ``part`` of ``tensor`` without padding."""
    if not hasattr(tensor, "ds_numel"):
        return part
    return part.flatten()[: max(0, int(tensor.ds_numel) - rank() * part.numel())]
