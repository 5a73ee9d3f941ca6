"""Advice on which experiment to train on N images on this machine: steps, hours and memory of each, and one
recommendation, as a table with the command to use.

They are planned as by ``plan``, with the speed that training the encoder here for a moment has. The full-size
experiment is recommended for 10,000 images and more, where it fits and ends within a week, otherwise the small one.
"""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from omegaconf import OmegaConf
from rich.progress import track
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import duration
from dira_scale.base.machine.console import Console
from dira_scale.base.machine.hardware import Hardware
from dira_scale.dataset.epochs import longer, smaller_batch
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.fleet.forecast.estimate import USABLE, Configured, planned
from dira_scale.fleet.forecast.links import GB
from dira_scale.train.distributed.precision import autocast, choose, set_fp32
from dira_scale.train.schedule import process_counts, stage_plans

EXPERIMENTS = FULL, SMALL = "dira_moco", "small"
TRIAL = 120.0  # seconds of steps: about three minutes with starting, validation and pictures
LONGEST = 7 * 24.0  # hours that a run may take to be recommended
FEWEST = 10_000  # images for the full-size experiment: 39 steps an epoch (the paper has 75,312 images, 294 steps)
MEASURED_PIXELS = 8 * 224**2  # of a step on a CPU; a GPU gets its share of a batch
WARM_UP, MEASURED = 3, 3  # steps: oneDNN compiles its bf16 kernels in the first ones, which take ten times as long


def flops_per_second(encoder: str, size: int, images: int, precision: str) -> float:
    """Floating-point operations per second of one device that trains ``encoder`` on ``size``-pixel views."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = timm.create_model(encoder, num_classes=0).to(device, memory_format=torch.channels_last).train()
    images = images if device.type == "cuda" else min(images, MEASURED_PIXELS // size**2)
    views = torch.rand(images, 3, size, size, device=device).to(memory_format=torch.channels_last)
    set_fp32(precision)

    def step() -> None:
        with autocast(device, precision):
            loss = network(views).float().square().mean()
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    with FlopCounterMode(display=False) as counter:
        step()
    seconds = []
    for _ in range(WARM_UP + MEASURED):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return float(counter.get_total_flops() / min(seconds[WARM_UP:]))


@dataclass(frozen=True)
class ExperimentChoice:
    """An experiment for a number of images on a machine."""

    experiment: str
    size: int  # pixels of a view
    encoder: str
    batch: int
    images: int
    available: float  # GB that a process may use
    epoch_factor: float = 1.0  # that plans as many steps as the experiment needed to learn; 1 without such a figure
    plan: Configured | None = None  # without loading and validation; None where there are fewer images than a batch
    held_out: bool = True  # whether there are images to validate on

    @property
    def problem(self) -> str:
        """Return why it cannot be trained here; empty if it can."""
        if self.plan is None:
            return f"needs {self.batch} images, a batch"
        needed = self.plan.row.memory.peak / GB
        return f"needs {needed:.1f} GB a process, {self.available:.1f} are free" if needed > self.available else ""


def choice(experiment: str, images: int, machine: Hardware) -> ExperimentChoice:
    """``experiment`` for ``images`` training images on ``machine``; measures and rehearses for some seconds."""
    config: Any = OmegaConf.to_object(compose("pretrain", [f"experiment={experiment}", "data.shards=none"]))
    encoder, size, batch = config.model.encoder, config.data.size, config.data.batch
    gpu = machine.gpus[0].memory_gib if machine.gpus else None
    available = (machine.free_memory_gib if gpu is None else USABLE * gpu) * 2**30 / GB
    if images < batch:
        return ExperimentChoice(experiment, size, encoder, batch, images, available)
    steps = sum(plan.steps for plan in stage_plans(config, lambda batch: images // batch))
    factor = longer(steps, config.enough_steps, config.epoch_factor) or config.epoch_factor
    processes = max(count for count in process_counts(config) if count <= max(1, len(machine.gpus)))
    precision = choose("auto")
    speed = flops_per_second(encoder, size, batch // processes, precision)
    tflops = speed * (2 if precision == "fp32" else 1) / 1e12  # fp32's products count as half as fast
    described = {"gpus": processes, "nodes": 1, "images": images, "tflops": tflops, "bandwidth": "null", "dispatch": 0}
    words = [f"experiment={experiment}", f"precision={precision}", f"epoch_factor={factor}"]
    plan = planned("pretrain", words, described)
    return ExperimentChoice(experiment, size, encoder, batch, images, available, factor, plan)


def recommend(choices: Sequence[ExperimentChoice]) -> tuple[ExperimentChoice | None, str]:
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


def advise(shards: str, machine: Hardware, console: Console) -> list[ExperimentChoice]:
    """Plan each experiment on the training split of ``shards``, with a progress bar.

    Raises ``UserError`` if there is no such dataset, or one of volumes.
    """
    dataset = ShardedDataset.open(shards)
    dataset.require(2, "pretrain")
    images, held_out = len(dataset.rows("train")), len(dataset.rows("val")) > 0
    named = track(EXPERIMENTS, "rehearsing the experiments", console=console, transient=True)
    return [replace(choice(name, images, machine), held_out=held_out) for name in named]


def _typed(choice: ExperimentChoice, shards: str, command: Sequence[str], name: str = "") -> str:
    """The command that trains it; ``name`` ends the run's."""
    run = f"out/runs/{Path(shards).name}{name}"
    factor = f" epoch_factor={choice.epoch_factor:g}" if choice.epoch_factor != 1 else ""
    keys = f"experiment={choice.experiment}{factor} data.shards={shlex.quote(shards)} run={shlex.quote(run)}"
    return f"{shlex.join(command)} {keys}" + ("" if choice.held_out else " data.val_split=null")


def show_advice(shards: str, choices: Sequence[ExperimentChoice], command: Sequence[str], console: Console) -> None:
    """Print the table and, below it, the recommended command and why."""
    console.print(f"\n[bold]Experiments for the {choices[0].images:,} training images of {shards} on this machine[/]")
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("  experiment=", "pixels", "encoder", "batch", "epoch_factor", "steps", "time", "GB", ""):
        left = name in ("  experiment=", "encoder", "")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "")
    for row in choices:
        figures = ["–"] * 4
        if plan := row.plan:
            needed = f"{plan.row.memory.peak / GB:.1f}"
            figures = [f"{row.epoch_factor:g}", f"{plan.steps:,}", duration(3600 * plan.row.hours), needed]
        problem = f"[yellow]{row.problem}[/]"
        table.add_row(f"  {row.experiment}", str(row.size), row.encoder, str(row.batch), *figures, problem)
    console.print(table)
    best, why = recommend(choices)
    if best is None:
        console.print(f"\n  none: {why}\n", highlight=False)
        return
    console.print(f"\n  {_typed(best, shards, command)}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"  because {why}", soft_wrap=True, highlight=False)
    if (seconds := 3600 * best.plan.row.hours if best.plan else 0.0) > TRIAL:
        trial = replace(best, epoch_factor=float(f"{best.epoch_factor * TRIAL / seconds:.1g}"))
        short = _typed(trial, shards, command, "_trial")
        console.print(f"\n  {short}", soft_wrap=True, highlight=False, markup=False)
        console.print(
            f"  tries all of it in about {duration(TRIAL)}: it learns nothing", soft_wrap=True, highlight=False
        )
    for remark in best.plan.remarks if best.plan else ():
        console.print(f"  {remark}", soft_wrap=True, highlight=False, markup=False)
    console.print(
        "  Time is of the steps alone, by the encoder's speed measured here: about. GB: peak of one process.\n"
        f"  Fine-tuning: python -m dira_scale.plan finetune task=… data.shards={shlex.quote(shards)}\n",
        style="dim",
        highlight=False,
    )
