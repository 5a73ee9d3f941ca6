"""Which experiment to train on N images on this machine: steps, hours and memory of each, and one recommendation.

Operations and memory come from a rehearsal of the experiment's own steps, speed from training its encoder here for a
moment. The full-size experiment is recommended for 10,000 images and more, where it fits and ends within a week,
otherwise the small one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from dira_scale.config.compose import compose
from dira_scale.data.epochs import longer, smaller_batch
from dira_scale.distributed.precision import choose
from dira_scale.forecast import here, strategies
from dira_scale.forecast.estimate import USABLE
from dira_scale.forecast.here import duration
from dira_scale.forecast.network import fake_task, one_rank_of
from dira_scale.forecast.rehearsal import rehearse
from dira_scale.machine.hardware import Hardware
from dira_scale.training.blueprint import blueprint_of
from dira_scale.training.schedule import process_counts, stage_plans

FULL, SMALL = "dira_moco", "small"  # those that may be recommended
EXPERIMENTS = (SMALL, "small_pcrl", FULL, "pcrl")
LONGEST = 7 * 24.0  # hours that a run may take to be recommended
FEWEST = 10_000  # images for the full-size experiment: 39 steps an epoch (the paper has 75,312 images, 294 steps)


@dataclass(frozen=True)
class Choice:
    """An experiment for a number of images on a machine.

    Attributes:
        size: pixels of a view.
        epoch_factor: that plans as many steps as the experiment needed to learn; 1 without such a figure.
        processes: among which the batch is divided.
        steps: of all stages, if none ends early.
        hours: of these steps, without loading, validation and communication; None where it cannot be trained.
        memory: GB that a process needs at its peak.
        available: GB that it may use.
        held_out: whether there are images to validate on.
    """

    experiment: str
    size: int
    encoder: str
    batch: int
    images: int
    epoch_factor: float = 1.0
    processes: int = 1
    steps: int = 0
    hours: float | None = None
    memory: float = 0.0
    available: float = 0.0
    held_out: bool = True

    @property
    def problem(self) -> str:
        """Why it cannot be trained here; empty if it can."""
        if self.images < self.batch:
            return f"needs {self.batch} images, a batch"
        if self.memory > self.available:
            return f"needs {self.memory:.1f} GB a process, {self.available:.1f} are free"
        return ""


def choice(experiment: str, images: int, machine: Hardware) -> Choice:
    """``experiment`` for ``images`` training images on ``machine``; measures and rehearses for some seconds."""
    precision = choose("auto")
    cfg = compose("pretrain", [f"experiment={experiment}", "data.shards=none", f"precision={precision}"])
    config: Any = OmegaConf.to_object(cfg)
    about = Choice(experiment, config.data.size, config.model.encoder, config.data.batch, images)
    if about.problem:
        return about
    plans = stage_plans(config, lambda batch: images // batch)
    factor = longer(sum(plan.steps for plan in plans), config.enough_steps, config.epoch_factor)
    if factor is not None:
        config.epoch_factor = factor
        plans = stage_plans(config, lambda batch: images // batch)
    processes = max(n for n in process_counts(config) if n <= max(1, len(machine.gpus)))
    with one_rank_of(processes):
        fake, accumulate = fake_task(blueprint_of("pretrain", cfg)), config.parallel.accumulate
        steps = [rehearse(fake, plan, plan.batch // processes, accumulate, bool(machine.gpus)) for plan in plans]
    operations = sum(plan.steps * (step.forward + step.backward) for plan, step in zip(plans, steps, strict=True))
    speed = operations_per_second(about.encoder, about.size, about.batch // processes, precision)
    gpu = machine.gpus[0].memory_gib if machine.gpus else None
    available = machine.free_memory_gib if gpu is None else USABLE * gpu
    return Choice(
        experiment, about.size, about.encoder, about.batch, images,
        epoch_factor=config.epoch_factor,
        processes=processes,
        steps=sum(plan.steps for plan in plans),
        hours=operations / speed / 3600,
        memory=max(strategies.memory("ddp", processes, step, False).peak for step in steps) / 1e9,
        available=available * 2**30 / 1e9,
    )  # fmt: skip


def operations_per_second(encoder: str, size: int, images: int, precision: str) -> float:
    """FLOP/s of one device that trains ``encoder`` on ``size``-pixel views."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = timm.create_model(encoder, num_classes=0).to(device, memory_format=torch.channels_last).train()
    images = images if device.type == "cuda" else min(images, here.MEASURED_PIXELS // size**2)
    views = torch.rand(images, 3, size, size, device=device).to(memory_format=torch.channels_last)
    with FlopCounterMode(display=False) as counter:
        here.step(model, views, precision)
    return float(counter.get_total_flops() / here.seconds_per_step(model, views, precision))


def recommend(choices: Sequence[Choice]) -> tuple[Choice | None, str]:
    """The choice to take and the reason in a sentence; None where nothing can be trained."""
    by_name = {choice.experiment: choice for choice in choices}
    full, small = by_name[FULL], by_name[SMALL]
    hours = full.hours or 0.0
    if not full.problem and hours <= LONGEST and full.images >= FEWEST:
        return full, f"the full-size experiment fits and takes at most {duration(hours)}"
    if small.problem:
        batch = min(small.batch // 2, smaller_batch(small.images)) if small.images else 0
        return None, f"{SMALL} {small.problem}" + f"; data.batch={batch} tries whether all works" * (batch > 1)
    why = full.problem or f"takes about {duration(hours)} here, more than {duration(LONGEST)}"
    if full.images < FEWEST:
        why = f"is for {FEWEST:,} images and more"
    return small, f"{FULL} {why}"
