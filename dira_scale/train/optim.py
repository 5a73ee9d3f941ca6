"""Optimizers by ``_target_``, schedules as a pure function of the step, optimizer state by parameter name."""

import math
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.optim import Optimizer

from dira_scale.errors import UserError, nearest

SCHEDULES = ("cosine_epoch", "cosine", "constant")


def build(config: dict[str, Any], module: nn.Module, key: str) -> Optimizer:
    """The optimizer that ``config`` names, over the parameters of ``module`` that are trained.

    Raises:
        UserError: names ``key`` where the target or one of its arguments is wrong.
    """
    try:
        optimizer = instantiate(config, [p for p in module.parameters() if p.requires_grad])
    except (InstantiationException, TypeError) as error:
        raise UserError(f"{key}: {error}") from error
    assert isinstance(optimizer, Optimizer)
    return optimizer


def check_schedule(schedule: str) -> None:
    """Raise UserError for a schedule that does not exist."""
    if schedule not in SCHEDULES:
        raise UserError(f"optim.schedule={schedule}: there is {', '.join(SCHEDULES)}{nearest(schedule, SCHEDULES)}")


def learning_rate(schedule: str, base: float, step: int, steps: int, steps_per_epoch: int) -> float:
    """Rate of the ``step``-th of a stage's ``steps``.

    ``cosine_epoch``: lr = base · ½(1 + cos(π·e/E)) with e whole epochs, as MoCo's released code; ``cosine``: the same
    per step; ``constant``.
    """
    if schedule == "constant":
        return base
    if schedule == "cosine_epoch":
        epochs = math.ceil(steps / steps_per_epoch)
        return base * 0.5 * (1 + math.cos(math.pi * (step // steps_per_epoch) / epochs))
    return base * 0.5 * (1 + math.cos(math.pi * step / steps))


def state_by_name(optimizer: Optimizer, module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Optimizer state as ``{prefix}.{parameter name}.{key}``.

    Raises:
        UserError: the optimizer keeps something else than tensors, which would be lost on resume.
    """
    names = {id(p): name for name, p in module.named_parameters()}
    found: dict[str, Tensor] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                found[f"{prefix}.{names[id(parameter)]}.{key}"] = value
            elif value is not None:
                kind = f"{type(optimizer).__name__} keeps '{key}' as {type(value).__name__}"
                raise UserError(f"{prefix}: {kind}, and checkpoints hold tensors only: choose another optimizer")
    return found


def load_by_name(optimizer: Optimizer, module: nn.Module, prefix: str, tensors: dict[str, Tensor]) -> None:
    """The inverse of :func:`state_by_name`; keys of other prefixes are left alone."""
    for name, parameter in module.named_parameters():
        start = f"{prefix}.{name}."
        for key, tensor in tensors.items():
            if key.startswith(start) and "." not in key.removeprefix(start):
                optimizer.state[parameter][key.removeprefix(start)] = _placed(tensor, parameter, optimizer)


def _placed(tensor: Tensor, parameter: Tensor, optimizer: Optimizer) -> Tensor:
    """A copy that lies as the parameter lies; scalars (Adam's step count) on the CPU unless the kernel wants them."""
    if tensor.ndim and tensor.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
    on_device = tensor.ndim or optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
    return tensor.to(parameter.device if on_device else "cpu", copy=True)
