"""Optimizers by ``_target_``, their parameter groups, schedules as pure functions of the step, and state by name."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from dira_scale.base.arguments import check_arguments
from dira_scale.base.config.border import at, constructed
from dira_scale.base.config.registry import imported
from dira_scale.base.errors import UserError, nearest
from dira_scale.train.engine.config import PLATEAU, Optim
from dira_scale.train.models.momentum import local_shard, local_start
from dira_scale.train.runs.checkpoint import StoredTensors

FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)  # those of torch's that have fused kernels on GPUs
# Optimizers that update each value independently, so flat partitions do not change them. Others need complete layers
# (LARS), or are replaced by DeepSpeed (Adagrad).
ELEMENTWISE = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Lion")
OWN_CLIP = "max_grad_norm"  # an argument by which an optimizer clips gradients itself: timm's Lamb, at 1 by default


def stage_optimizer(config: Optim, module: nn.Module, batch: int, fuses: bool = True) -> Optimizer:
    """The optimizer of ``config`` over the trained parameters of ``module``, with the rates for a global ``batch``.

    If ``optim.reference_batch`` is set, the configured rates are for that batch and scale linearly (Goyal et al. 2017;
    SimSiam, Barlow Twins and BYOL state theirs so). Every group keeps its rate as ``initial_lr``, as ``factor`` by what
    ``config.factors`` has multiplied it, as ``frozen`` the ``frozen_share`` of modules that have one, and, if weight
    decay has a schedule, its own as ``initial_decay``. ``fuses``: whether the strategy lets :func:`build` choose fused
    kernels.

    Raises UserError, which names the wrong key.
    """
    groups = _groups(module, config)
    optimizer = build(config.optimizer, groups, "optim.optimizer", fuses)
    for setting in config.one_dimensional:
        if setting not in optimizer.defaults:
            settings = f"{', '.join(optimizer.defaults)}{nearest(setting, list(optimizer.defaults))}"
            raise UserError(f"optim.one_dimensional.{setting}: {type(optimizer).__name__} has {settings}")
    with at("optim.one_dimensional"):
        check_arguments(type(optimizer), config.one_dimensional)
    if config.weight_decay_end is not None and "weight_decay" not in optimizer.defaults:
        raise UserError(f"optim.weight_decay_end: {type(optimizer).__name__} has no weight_decay; use null")
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"] * group["factor"] * batch / (config.reference_batch or batch)
        group["lr"] = group["initial_lr"]
        if config.weight_decay_end is not None:
            group["initial_decay"] = group["weight_decay"]
    return optimizer


def build(config: dict[str, Any], parameters: Sequence[Any], key: str, fuses: bool = True) -> Optimizer:
    """The optimizer that ``config`` names, over ``parameters`` or groups of them.

    Where ``fused`` is not given, a GPU's parameters get fused kernels if there are such and ``fuses``: one pass over
    memory instead of one for each operation.

    Raises UserError, which names ``key``, if the target or one of its arguments is wrong.
    """
    name = config.get("_target_")
    target = imported(f"{key}._target_", name)
    if inspect.isclass(target) and not issubclass(target, Optimizer):
        raise UserError(f"{key}._target_: {name} is not a torch.optim.Optimizer")
    arguments = [*inspect.signature(target).parameters][1:]  # after what is to be trained
    if OWN_CLIP in arguments and OWN_CLIP in config:
        raise UserError(f"{key}.{OWN_CLIP}: gradients are clipped by optim.clip={config[OWN_CLIP]}; take this out")
    ours: dict[str, Any] = {OWN_CLIP: None} if OWN_CLIP in arguments else {}
    if fuses and has_fused(target, config):
        tensors = [p for part in parameters for p in (part["params"] if isinstance(part, dict) else [part])]
        if tensors and all(tensor.device.type != "cpu" for tensor in tensors):
            ours["fused"] = True
    optimizer = constructed(key, {**config, **ours}, positional=[parameters])
    if not isinstance(optimizer, Optimizer):
        raise UserError(f"{key}._target_: {name} is not a torch.optim.Optimizer")
    if isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["fused"]:
        # The kernel takes the momenta of all parameters or of none, and some may get their first gradient later.
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] and not group["dampening"] else []:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def has_fused(target: Any, settings: Mapping[str, Any]) -> bool:
    """Return whether ``target`` is one of ``FUSED`` and ``settings`` leave the choice of kernels open."""
    other = settings.get("foreach") or settings.get("differentiable") or settings.get("dampening")
    return target in FUSED and settings.get("fused") is None and not other


def is_fused(optimizer: Optimizer) -> bool:
    """Return whether ``optimizer`` skips a step, and keeps its states, where its ``found_inf`` on the device is 1. Not
    with dampening: torch would take the first step's momentum, which the kernel has not written, for stored."""
    groups = optimizer.param_groups
    return type(optimizer) in FUSED and all(group["fused"] and not group.get("dampening") for group in groups)


def _groups(module: nn.Module, config: Optim) -> list[dict[str, Any]]:
    """The trained parameters in groups: biases, norms and other vectors apart (if configured), but those that a module
    names in ``as_matrices``; modules with a fixed rate apart, each of ``config.factors`` apart, and what is frozen at a
    stage's beginning."""
    one_dimensional, fixed = config.one_dimensional, config.fixed_rate
    factors = config.factors([name for name, _ in module.named_parameters()])
    parts = {part for name, _ in module.named_parameters() for part in name.split(".")[:-1] if not part.isdigit()}
    for name in fixed:
        if name not in parts:
            raise UserError(f"optim.fixed_rate: no module is named '{name}'{nearest(name, sorted(parts))}")
    target = imported("optim.optimizer._target_", config.optimizer.get("_target_"))
    elementwise = getattr(target, "__name__", "") in ELEMENTWISE
    elementwise &= not config.optimizer.get("caution")  # timm's then takes a mean of each layer
    groups: dict[tuple[bool, bool, float, float], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parent, _, attribute = name.rpartition(".")
            owner = module.get_submodule(parent)
            vector = parameter.ndim <= 1 and attribute not in getattr(owner, "as_matrices", ())
            one_dim, frozen = bool(one_dimensional) and vector, getattr(owner, "frozen_share", 0.0)
            kind = one_dim, not set(fixed).isdisjoint(name.split(".")), factors.get(name, 1.0), frozen
            group: dict[str, Any] = {"params": [], "fixed_rate": kind[1], "factor": kind[2], "frozen": frozen}
            group |= dict(one_dimensional) if one_dim else {}
            groups.setdefault(kind, group)["params"].append(part_of(parameter) if elementwise else parameter)
    return list(groups.values())


def part_of(parameter: nn.Parameter) -> nn.Parameter:
    """Return what an elementwise optimizer steps: ``parameter``, or, as operations on DTensors take the processor long,
    the part of FSDP2's that this process has, which shares its memory and keeps it as ``whole``."""
    if not isinstance(parameter, DTensor):
        return parameter
    part = nn.Parameter(local_shard(parameter))
    part.whole = parameter  # type: ignore[attr-defined]
    return part


def whole(part: Tensor) -> Tensor:
    """Return the parameter that an optimizer steps, or of which it steps a part."""
    return getattr(part, "whole", part)


def learning_rate(
    schedule: str,
    base: float,
    step: int,
    steps: int,
    steps_per_epoch: int,
    warmup: int = 0,
    end: float = 0.0,
    factor: float = 1.0,
    period: int | Sequence[int] = 1,
) -> float:
    """Rate of step ``step`` of a stage's ``steps``: linear from 0 over the first ``warmup``, then the schedule.

    ``cosine``: lr = base · (q + end · (1 - q)) with q = ½(1 + cos(π·t/T)), t counting steps after the warm-up (Barlow
    Twins' released code); ``cosine_epoch``: the same, t counting whole epochs (MoCo's); ``step``: times ``factor``
    after every ``period`` steps (torch's StepLR), or after each of these (MultiStepLR); ``constant``, and ``plateau``,
    whose factor is the run's state (:class:`dira_scale.train.engine.state.RunState`).
    """
    if step < warmup:
        return base * step / warmup
    if schedule in ("constant", PLATEAU):
        return base
    step, steps = step - warmup, steps - warmup
    if schedule == "step":
        falls = step // period if isinstance(period, int) else sum(step >= milestone for milestone in period)
        return base * float(factor**falls)
    if schedule == "cosine_epoch":
        step, steps = step // steps_per_epoch, math.ceil(steps / steps_per_epoch)
    q = 0.5 * (1 + math.cos(math.pi * step / steps))
    return base * (q + end * (1 - q))


def state_by_name(optimizer: Optimizer, module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Optimizer state as ``{prefix}.{parameter name}.{key}``.

    Raises UserError if the optimizer keeps state other than tensors, which would be lost on resume.
    """
    names = {id(p): name for name, p in module.named_parameters()}
    tensors = dict[str, Tensor]()
    for part, state in optimizer.state.items():
        parameter = whole(part)
        for key, value in state_tensors(state, optimizer, prefix).items():
            if isinstance(parameter, DTensor) and not isinstance(value, DTensor) and value.ndim:
                mesh, placements, shape = parameter.device_mesh, parameter.placements, parameter.shape
                value = DTensor.from_local(value, mesh, placements, shape=shape, stride=parameter.stride())
            tensors[f"{prefix}.{names[id(parameter)]}.{key}"] = value
    return tensors


def state_tensors(state: Mapping[str, Any], optimizer: Optimizer, prefix: str) -> dict[str, Tensor]:
    """A parameter's state without the entries that are None.

    Raises UserError if an entry is neither a tensor nor None.
    """
    for key, value in state.items():
        if value is not None and not isinstance(value, Tensor):
            kind = f"{type(optimizer).__name__} keeps '{key}' as {type(value).__name__}"
            raise UserError(f"{prefix}: {kind}, and checkpoints hold tensors only: choose another optimizer")
    return {key: value for key, value in state.items() if value is not None}


def load_by_name(optimizer: Optimizer, module: nn.Module, prefix: str, stored: StoredTensors) -> None:
    """The inverse of :func:`state_by_name`; of each state this process reads what it holds of the parameter."""
    parts = {id(whole(part)): part for group in optimizer.param_groups for part in group["params"]}
    owners = {f"{prefix}.{name}": parameter for name, parameter in module.named_parameters()}
    for full, tensor in stored.tensors.items():
        owner, _, key = full.rpartition(".")
        if (parameter := owners.get(owner)) is None:
            continue
        part = parts.get(id(parameter), parameter)
        if tensor.shape and tensor.shape == parameter.shape:
            value = torch.empty_like(local_shard(parameter), dtype=tensor.dtype)
            value.copy_(stored.part_of(full, value, local_start(parameter)))
            if isinstance(part, DTensor):
                value = DTensor.from_local(
                    value, part.device_mesh, part.placements, shape=part.shape, stride=part.stride()
                )
        elif tensor.shape and isinstance(part, DTensor):  # of another shape, as of factored second moments
            complete, placements = stored[full].to(parameter.device), part.placements
            value = distribute_tensor(complete, part.device_mesh, placements, src_data_rank=None)
        else:  # scalars (Adam's step count) on the CPU unless the kernel needs them
            on_device = tensor.shape or optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
            value = stored[full].to(parameter.device if on_device else "cpu")
        optimizer.state[part][key] = value
