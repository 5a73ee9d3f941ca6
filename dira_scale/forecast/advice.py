"""Which experiment to train on N images on this machine: steps, hours and memory of each, and one recommendation.

They are planned as by ``plan``, with the speed that training the encoder here for a moment has. The full-size
experiment is recommended for 10,000 images and more, where it fits and ends within a week, otherwise the small one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from dira_scale.config.compose import compose
from dira_scale.data.epochs import longer, smaller_batch
from dira_scale.distributed.precision import choose
from dira_scale.errors import duration
from dira_scale.forecast.estimate import USABLE, Configured, planned
from dira_scale.forecast.here import flops_per_second
from dira_scale.forecast.links import GB
from dira_scale.machine.hardware import Hardware
from dira_scale.training.schedule import process_counts, stage_plans

EXPERIMENTS = FULL, SMALL = "dira_moco", "small"
LONGEST = 7 * 24.0  # hours that a run may take to be recommended
FEWEST = 10_000  # images for the full-size experiment: 39 steps an epoch (the paper has 75,312 images, 294 steps)


@dataclass(frozen=True)
class Choice:
    """An experiment for a number of images on a machine.

    Attributes:
        size: pixels of a view.
        available: GB that a process may use.
        epoch_factor: that plans as many steps as the experiment needed to learn; 1 without such a figure.
        plan: without loading and validation; None where there are fewer images than a batch.
        held_out: whether there are images to validate on.
    """

    experiment: str
    size: int
    encoder: str
    batch: int
    images: int
    available: float
    epoch_factor: float = 1.0
    plan: Configured | None = None
    held_out: bool = True

    @property
    def problem(self) -> str:
        """Why it cannot be trained here; empty if it can."""
        if self.plan is None:
            return f"needs {self.batch} images, a batch"
        needed = self.plan.row.memory.peak / GB
        return f"needs {needed:.1f} GB a process, {self.available:.1f} are free" if needed > self.available else ""


def choice(experiment: str, images: int, machine: Hardware) -> Choice:
    """``experiment`` for ``images`` training images on ``machine``; measures and rehearses for some seconds."""
    config: Any = OmegaConf.to_object(compose("pretrain", [f"experiment={experiment}", "data.shards=none"]))
    encoder, size, batch = config.model.encoder, config.data.size, config.data.batch
    gpu = machine.gpus[0].memory_gib if machine.gpus else None
    available = (machine.free_memory_gib if gpu is None else USABLE * gpu) * 2**30 / GB
    if images < batch:
        return Choice(experiment, size, encoder, batch, images, available)
    steps = sum(plan.steps for plan in stage_plans(config, lambda batch: images // batch))
    factor = longer(steps, config.enough_steps, config.epoch_factor) or config.epoch_factor
    processes = max(count for count in process_counts(config) if count <= max(1, len(machine.gpus)))
    precision = choose("auto")
    speed = flops_per_second(encoder, size, batch // processes, precision)
    described = {"gpus": processes, "nodes": 1, "images": images, "tflops": speed / 1e12, "dispatch": 0}
    words = [f"experiment={experiment}", f"precision={precision}", f"epoch_factor={factor}"]
    plan = planned("pretrain", words, described)
    return Choice(experiment, size, encoder, batch, images, available, factor, plan)


def recommend(choices: Sequence[Choice]) -> tuple[Choice | None, str]:
    """The choice to take and the reason in a sentence; None where nothing can be trained."""
    by_name = {choice.experiment: choice for choice in choices}
    full, small = by_name[FULL], by_name[SMALL]
    hours = full.plan.row.hours if full.plan else 0.0
    if full.images < FEWEST:
        why = f"is for {FEWEST:,} images and more"
    elif not (why := full.problem) and hours > LONGEST:
        why = f"takes about {duration(3600 * hours)} here, more than {duration(3600 * LONGEST)}"
    if not why:
        return full, f"the full-size experiment fits and takes at most {duration(3600 * hours)}"
    if small.problem:
        batch = min(small.batch // 2, smaller_batch(small.images)) if small.images else 0
        return None, f"{SMALL} {small.problem}" + f"; data.batch={batch} tries whether all works" * (batch > 1)
    return small, f"{FULL} {why}"
