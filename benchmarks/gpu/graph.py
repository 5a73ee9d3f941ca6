"""Measures what steps gain as CUDA graphs (``parallel.graph=true``), and compares them with launched ones bit for bit.

Of each recipe ms of launched and of replayed steps, the host's ms of a replayed one, GiB, seconds of recording, and
whether 20 launched and 20 replayed steps from one state end with equal weights, statistics, momentum networks and
states of optimizers, while a method's progress moves. Without a GPU steps take the replays' place.
"""

import time
from functools import partial
from typing import Any

import torch

from benchmarks.gpu import items
from benchmarks.gpu.loops import Ours, turn
from benchmarks.gpu.recipes import words
from benchmarks.gpu.report import Job, figure
from benchmarks.gpu.steps import CHECKED, PAPER, TURN
from benchmarks.synthetic import wait
from dira_scale.train.engine import graph
from dira_scale.train.methods import Method

COMPARED = 20  # steps
RECIPES = {
    "dira_moco, batch 64": ("dira_moco", *PAPER, "data.batch=64"),
    "dira_moco": ("dira_moco", *PAPER),
    "labels": ("labels",),
    "dinov2_vitb14, batch 64": ("dinov2_vitb14",),
    "dinov2_vitb14, batch 128": ("dinov2_vitb14", "data.batch=128"),
    "dino_vit3d": ("dino_vit3d",),
    "mae_vit3d": ("mae_vit3d",),
    "mae3d": ("mae3d",),
}


def step(loop: Ours, number: int) -> None:
    """One of ``COMPARED`` and some before."""
    method = loop.model.module
    if isinstance(method, Method):
        method.steps, method.progress = 2 * COMPARED, number / (2 * COMPARED)
        method.before_step()
    loop.step(number)


def measured(recipe: str, *keys: str, rehearse: bool) -> dict[str, Any]:
    """Figures of launched and replayed steps."""
    seen = ("health.every=10",) if recipe != "labels" else ()  # steps with monitors among those that are compared
    given, steps, compared = words(recipe, rehearse, *keys, *seen), 1 if rehearse else TURN, 2 if rehearse else COMPARED
    loop, cuda, told = Ours(*given), torch.cuda.is_available(), list[str]()
    for number in range(CHECKED):
        step(loop, number)
    launched = 1e3 * turn(loop, CHECKED, steps)
    expects = " ".join(words(recipe, rehearse, *keys))
    figures = {"launched": figure(launched, "ms", (expects, "ms"))}
    start = loop.copied()
    for number in range(CHECKED, CHECKED + compared):
        step(loop, number)
    right = loop.copied()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        modules = [loop.model.module, *(side.module for side in loop.task.side_modules)]
        loop.take.recorder = graph.Recorder(loop.device, modules, lambda line, **_: told.append(line))
    began = time.perf_counter()
    for number in range(1, graph.LAUNCHED + 2):  # none with monitors but the first
        step(loop, number)
    wait(loop.device)()
    recording = time.perf_counter() - began
    loop.restore(start)
    for number in range(CHECKED, CHECKED + compared):
        step(loop, number)
    same = all(torch.equal(x, right[name]) for name, x in loop.copied().items())
    if told:
        return {"figures": figures, "left_out": told[0]}
    replayed = 1e3 * turn(loop, CHECKED, steps)
    wait(loop.device)()
    began = time.perf_counter()
    step(loop, CHECKED)
    host = 1e3 * (time.perf_counter() - began)
    note = f"x launched {launched / replayed:.2f}, {'equal' if same else 'NOT EQUAL'} bit for bit"
    figures |= {
        "replayed": figure(replayed, "ms", (expects, "graph ms"), note, same),
        "host": figure(host, "ms"),
        "recording": figure(recording, "s", note=f"with {graph.LAUNCHED} launched steps"),
    }
    if cuda:
        figures["memory"] = figure(torch.cuda.max_memory_reserved() / 2**30, "GiB")
    return {"figures": figures}


def run(job: Job) -> bool:
    """All recipes."""
    return items.run(job, {name: partial(measured, *given, rehearse=job.rehearse) for name, given in RECIPES.items()})
