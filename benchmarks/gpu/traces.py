"""Which kernels take a step's time? One traced step of a recipe: its dearest kernels, and sums by their kind.

A step's ms is of steps that are not traced. Kernels run one after the other, so what of it they do not fill is waiting
for the host. On a CPU the same of its operations.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu import items
from benchmarks.gpu.loops import Ours, turn
from benchmarks.gpu.recipes import words
from benchmarks.gpu.report import Job, figure
from benchmarks.gpu.steps import CHECKED, PAPER, TURN
from dira_scale.train.engine.profiler import SPANS

DEAREST = 40  # kernels of the table
LENGTH = 240  # of a kernel's name
# Kind -> what is in a kernel's (on a CPU an operation's) name; the first that fits counts. By kind the planner's rates
# are to be fitted: products, norms, all else.
KINDS = {
    "layout": r"nchwToNhwc|nhwcToNchw|nchw2nhwc|nhwc2nchw|transpose_readWrite",
    "attention": r"flash|fmha|attention|sdpa",
    "norm": r"^_(moments|summed|merged|applied|differentiated)$"  # ours, in Triton
    r"|batch_?norm|bn_[fb]w|instance_?norm|layer_?norm|group_?norm|GammaBeta|RowwiseMoments",
    "optimizer": r"Optimizer\.|multi_tensor|foreach|fused_?(sgd|adam)",
    "product": r"gemm|conv(?!ert)|cutlass|[fdw](prop|grad)|nvjet|xmma|winograd|split_?k|cublas|::(add|b|)mm\b",
    "pointwise": r"elementwise|copy|memcpy|memset|fill|cat|upsample|pool|index|gather|scatter|reduce|softmax|sort"
    r"|^_(norms|sums|losses|gradient)$|triton_|random|distribution|aten::",
}
RECIPES = {
    "dira_moco": ("dira_moco", *PAPER),
    "dinov2_vitb14, batch 128": ("dinov2_vitb14", "data.batch=128"),
    "dino_vit3d": ("dino_vit3d",),
    "mae3d": ("mae3d",),
}


def traced(recipe: str, *keys: str, rehearse: bool) -> dict[str, Any]:
    """A step's kernels: the dearest (ms, share, calls, kind, name), and the ms of each kind."""
    given = words(recipe, rehearse, *keys)
    loop, steps = Ours(*given), 1 if rehearse else TURN
    for number in range(CHECKED):
        loop.step(number)
    whole = 1e3 * turn(loop, CHECKED, steps)
    found = summed(kernels(lambda: loop.step(CHECKED + steps), loop.device))
    total, calls = sum(ms for ms, *_ in found), sum(row[2] for row in found)
    figures = {"a step": figure(whole, "ms", (" ".join(given), "ms"))}
    figures["kernels"] = figure(total, "ms", note=f"{total / whole:.0%} of a step, {calls:,} of them")
    for each in dict.fromkeys([*KINDS, "other"]):
        ms = sum(row[0] for row in found if row[3] == each)
        figures[each] = figure(ms, "ms", note=f"{ms / total:.1%}")
    return {"figures": figures, "kernels": found[:DEAREST], "expects": " ".join(given)}


def kernels(run: Callable[[], None], device: torch.device) -> list[tuple[str, int, float]]:
    """Name, calls and microseconds of all that ``run`` has the device do."""
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as tracing:
        run()
        if cuda:
            torch.cuda.synchronize()
    if not cuda:
        return [(row.key, row.count, row.self_cpu_time_total) for row in tracing.key_averages() if row.key not in SPANS]
    each = [event for event in tracing.events() or [] if event.device_type == DeviceType.CUDA]
    each = [event for event in each if event.name not in SPANS and not getattr(event, "is_user_annotation", False)]
    return [(event.name, 1, event.time_range.elapsed_us()) for event in each]


def summed(each: Iterable[tuple[str, int, float]]) -> list[tuple[float, float, int, str, str]]:
    """By name, the dearest first: ms, share of all, calls, kind, name."""
    totals = dict[str, tuple[int, float]]()
    for name, calls, us in each:
        before = totals.get(name, (0, 0.0))
        totals[name] = before[0] + calls, before[1] + us
    whole = sum(us for _, us in totals.values()) or 1.0
    ordered = sorted(totals.items(), key=lambda item: -item[1][1])
    return [(us / 1e3, us / whole, calls, kind(name), short(name)) for name, (calls, us) in ordered]


def kind(name: str) -> str:
    """Which of ``KINDS`` a kernel is."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), "other")


def short(name: str) -> str:
    """A kernel's name without its arguments and what all names have."""
    name = re.sub(r"^void |\(anonymous namespace\)::|(at|native|c10|cuda|std|internal)::", "", name)
    return name.partition(">(")[0][:LENGTH]


def run(job: Job) -> bool:
    """All of it; whether it was fine."""
    each = {name: partial(traced, *given, rehearse=job.rehearse) for name, given in RECIPES.items()}
    return items.run(job, each, 0.8)  # the first one compiles our kernels
