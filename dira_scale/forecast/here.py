"""What a run takes on this machine where it has no GPU: its own network is trained for a moment."""

import time
from math import prod

import torch
from torch import nn

from dira_scale.distributed.precision import autocast, choose
from dira_scale.forecast.advice import MEASURED_PIXELS, WARM_UP, duration
from dira_scale.machine.hardware import hardware
from dira_scale.training.config import StagedTraining
from dira_scale.training.schedule import stage_plans


def line(config: StagedTraining, network: nn.Module, shape: tuple[int, ...], images: int) -> str:
    """Return, for people, how long, by what, and how sure. ``shape``: of the network's input, [C, *size]."""
    plans = stage_plans(config, lambda batch: max(1, images // batch))
    steps = sum(plan.steps for plan in plans)
    share = min(steps, config.steps or steps) / steps
    views = min(max(plan.batch for plan in plans), max(2, MEASURED_PIXELS // prod(shape[1:])))
    seconds = seconds_of(network, (views, *shape), choose("auto"))
    hours = share * sum(plan.steps * plan.batch for plan in plans) * seconds / views / 3600
    return (
        f"This machine, {hardware().cores} CPU cores without a GPU: about {duration(hours)} for "
        f"{round(share * steps):,} steps, as its network trains here for a moment; half to twice as long, without "
        "loading and validation."
    )


def seconds_of(network: nn.Module, shape: tuple[int, ...], precision: str) -> float:
    """Return the seconds of the fastest of some forward and backward passes on random views."""
    views, seconds = torch.rand(shape), []
    network.train()
    for _ in range(WARM_UP + 3):
        start = time.perf_counter()
        with autocast(views.device, precision):
            loss = network(views).float().square().mean()
        loss.backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds[WARM_UP:])
