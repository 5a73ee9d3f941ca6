"""Measures what transformers gain whose blocks are compiled (``parallel.compile=true``) and share a graph.

Each leaves the seconds that its first compiled step took, and a step's ms. From one state its losses must be those of
the step that is not compiled. A rehearsal traces and differentiates the parts, but makes no machine code, which takes a
CPU minutes. Of DiRA's ResNet it is known that compiling gains nothing (docs/evidence/scale.md).
"""

import time
from functools import partial
from typing import Any

import torch
import torch._functorch.config
from torch._dynamo.utils import counters

from benchmarks.gpu import items
from benchmarks.gpu.loops import Ours, turn
from benchmarks.gpu.recipes import words
from benchmarks.gpu.report import Job, figure
from benchmarks.gpu.steps import CHECKED, TOLERANCE, TURN, deviation
from benchmarks.synthetic import wait
from dira_scale.train.engine.parallel.compiled import LIMIT, regions

RECIPES = {"dinov2_vitb14": ("data.batch=128",), "dino_vit3d": (), "mae_vit3d": ()}
MEASURED = 2  # turns


def compiled(recipe: str, rehearse: bool) -> dict[str, Any]:
    """Figures of a step whose parts are compiled."""
    given, steps = words(recipe, rehearse, *RECIPES[recipe]), 1 if rehearse else TURN
    torch._dynamo.config.recompile_limit, torch._functorch.config.donated_buffer = LIMIT, False
    loop = Ours(*given)

    def measured() -> float:
        return min(turn(loop, CHECKED + 1 + i * steps, steps) for i in range(MEASURED))

    for number in range(CHECKED):
        loop.step(number)
    loop.losses()
    state = loop.copied()
    loop.step(CHECKED)
    right, launched = loop.losses(), measured()
    parts = regions(loop.model.module)
    for part in parts:
        backend = "aot_eager" if rehearse else "inductor"
        part.forward = torch.compile(part.forward, dynamic=False, backend=backend)
    loop.restore(state)
    loop.losses()
    first = time.perf_counter()
    loop.step(CHECKED)
    wait(loop.device)()
    first = time.perf_counter() - first
    off, allowed, taken = deviation(loop.losses(), right), TOLERANCE["bf16"], measured()
    note = f"x not compiled {launched / taken:.2f}, losses off by {off:.0e}"
    traced = f"{len(parts)} modules, {counters['stats']['unique_graphs']} graphs"
    figures = {
        "a step": figure(1e3 * taken, "ms", (" ".join(given), "ms"), note, off <= allowed),
        "first step": figure(first, "s", note=traced),
    }
    return {"figures": figures, "expects": " ".join(given)}


def run(job: Job) -> bool:
    """All of them."""
    return items.run(job, {recipe: partial(compiled, recipe, job.rehearse) for recipe in RECIPES})
