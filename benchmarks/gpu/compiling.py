"""Rungs of one network's step, each of which compiles a part more than those before it: what does each gain? Then steps
of transformers, whose blocks share a graph, with all parts compiled.

One batch size each, as shapes are static. Each leaves the seconds that its first step took, most of which is compiling,
and a step's ms. From one state all of them must come to the losses of the step that is not compiled. A rehearsal traces
and differentiates its parts, but makes no machine code, which takes a CPU minutes.
"""

import gc
import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._inductor.async_compile import AsyncCompile

from benchmarks.gpu import caches, items
from benchmarks.gpu.loops import Ours, alone, turn
from benchmarks.gpu.recipes import words
from benchmarks.gpu.report import Job, figure
from benchmarks.gpu.steps import CHECKED, PAPER, TOLERANCE, TURN, deviation
from benchmarks.synthetic import wait
from dira_scale.train.engine.parallel.compiled import LIMIT, regions

NOTHING = "nothing"
RUNGS = {NOTHING: r"$^", "D": r"D$", "decoder": r"decoder\.", "layers 1 and 2": r"layer[12]\.", "the rest": r""}
TRANSFORMERS = {"dinov2_vitb14": ("data.batch=128",), "dino_vit3d": (), "mae_vit3d": ()}  # recipes and their words
MEASURED = 2  # turns


class Ladder:
    """A loop, of which each rung compiles more; made anew in the process that goes on after one that was lost."""

    def __init__(self, job: Job, recipe: str, *keys: str) -> None:
        self.job, self.given = job, words(recipe, job.rehearse, *keys)
        torch._dynamo.config.recompile_limit, torch._functorch.config.donated_buffer = LIMIT, False
        if torch.cuda.is_available():  # the compiler's processes start while the network is built
            AsyncCompile.warm_pool()
            AsyncCompile.wakeup()
        self.loop = Ours(*self.given)
        for number in range(CHECKED):
            self.loop.step(number)
        self.loop.losses()
        self.state = self.loop.copied()
        self.loop.step(CHECKED)
        self.right, self.waiting = self.loop.losses(), dict(self.parts())
        self.launched, _ = self.measured()

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield by name what ``parallel.compile`` compiles."""
        sides: Any = self.loop.task.side_modules
        yield from (("D", side.module.discriminator) for side in sides)
        method = self.loop.model.module
        names = {module: name for name, module in method.named_modules()}
        yield from ((names[region], region) for region in regions(method))

    def rung(self, name: str) -> dict[str, Any]:
        """The figures with this rung's parts compiled, and those of the rungs before it."""
        compiled = 0
        for pattern in list(RUNGS.values())[: [*RUNGS].index(name) + 1]:
            for part in [part for part in self.waiting if re.search(pattern, part)]:
                module, compiled = self.waiting.pop(part), compiled + 1
                backend = "aot_eager" if self.job.rehearse else "inductor"
                module.forward = torch.compile(module.forward, dynamic=False, backend=backend)
        self.loop.restore(self.state)
        self.loop.losses()
        first = time.perf_counter()
        self.loop.step(CHECKED)
        wait(self.loop.device)()
        first = time.perf_counter() - first
        off, allowed = deviation(self.loop.losses(), self.right), TOLERANCE["bf16"]
        taken, gib = self.measured()
        note = f"x uncompiled {self.launched / taken:.2f}, losses off by {off:.0e}"
        expected = (" ".join(self.given), "ms") if name == NOTHING else None
        figures = {"a step": figure(1e3 * taken, "ms", expected, note, off <= allowed)}
        if gib:
            figures["memory"] = figure(gib, "GiB")
        figures["first step"] = figure(first, "s", note=f"{compiled} modules more, {caches.hits()}")
        if kept := caches.write(self.job.logs, self.job.report.file.parent):
            figures["caches"] = figure(kept / 2**20, "MiB")
        return {"figures": figures, "expects": " ".join(self.given)}

    def measured(self) -> tuple[float, float]:
        """Seconds of a step, the faster of two turns, and the most memory in it, in GiB."""
        if cuda := self.loop.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        steps = 1 if self.job.rehearse else TURN
        taken = min(turn(self.loop, CHECKED + 1 + i * steps, steps) for i in range(MEASURED))
        return taken, torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0


def run(job: Job) -> bool:
    """All rungs; whether each came to the losses that it must have."""
    made = list[Ladder]()

    def rung(name: str) -> dict[str, Any]:
        if not made:
            made.append(Ladder(job, "dira_moco", *PAPER))
        return made[0].rung(name)

    def whole(recipe: str) -> dict[str, Any]:
        made.clear()
        gc.collect()
        with alone():
            return Ladder(job, recipe, *TRANSFORMERS[recipe]).rung([*RUNGS][-1])

    each = {name: partial(rung, name) for name in RUNGS} | {name: partial(whole, name) for name in TRANSFORMERS}
    return items.run(job, each, apart=False)
