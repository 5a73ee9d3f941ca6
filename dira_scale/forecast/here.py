"""How fast this machine trains: a network is trained here for a moment."""

import time
from math import prod

import torch
from torch import Tensor, nn

from dira_scale.distributed.precision import autocast, choose
from dira_scale.machine.hardware import hardware
from dira_scale.training.config import StagedTraining
from dira_scale.training.schedule import stage_plans

MEASURED_PIXELS = 8 * 224**2  # of a step of the speed measurement on a CPU; a GPU gets its share of a batch
WARM_UP = 3  # steps: oneDNN compiles its bf16 kernels in the first ones, which take ten times as long


def line(config: StagedTraining, network: nn.Module, shape: tuple[int, ...], images: int) -> str:
    """Return how long a run takes here without a GPU, by what that is known, and how surely.

    ``shape``: of the network's input, [C, *size].
    """
    plans = stage_plans(config, lambda batch: max(1, images // batch))
    steps = sum(plan.steps for plan in plans)
    share = min(steps, config.steps or steps) / steps
    views = min(max(plan.batch for plan in plans), max(2, MEASURED_PIXELS // prod(shape[1:])))
    seconds = seconds_per_step(network, torch.rand(views, *shape), choose("auto"))
    hours = share * sum(plan.steps * plan.batch for plan in plans) * seconds / views / 3600
    return (
        f"This machine, {hardware().cores} CPU cores without a GPU: about {duration(hours)} for "
        f"{round(share * steps):,} steps, as its network trains here for a moment; half to twice as long, without "
        "loading and validation."
    )


def seconds_per_step(network: nn.Module, views: Tensor, precision: str) -> float:
    """Return the seconds of the fastest of some forward and backward passes, after others to warm up."""
    network.train()
    seconds = []
    for _ in range(WARM_UP + 3):
        start = time.perf_counter()
        step(network, views, precision)
        seconds.append(time.perf_counter() - start)
    return min(seconds[WARM_UP:])


def step(network: nn.Module, views: Tensor, precision: str) -> None:
    """Pass ``views`` forward and backward, and wait for the device."""
    with autocast(views.device, precision):
        loss = network(views).float().square().mean()
    loss.backward()
    if views.device.type == "cuda":
        torch.cuda.synchronize()


def duration(hours: float) -> str:
    """Two digits of the unit that reads best."""
    for unit, length in (("days", 24.0), ("hours", 1.0)):
        if hours >= 2 * length:
            return f"{float(f'{hours / length:.2g}'):,.0f} {unit}"
    return f"{max(1, round(60 * hours))} min"
