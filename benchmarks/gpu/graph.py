"""Can a whole step be one CUDA graph, and what does it save? Forward and backward pass and all optimizers' steps.

A graph replays the step that it has captured, on that step's batch: it shows what a host that launches nothing would
gain, not how to train. Its weights must be those of the same step launched one kernel at a time. Where capturing fails,
the reason is the figure. Without a GPU a step takes the replay's place.
"""

import traceback
from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from benchmarks.gpu import items
from benchmarks.gpu.loops import Ours, turn
from benchmarks.gpu.recipes import words
from benchmarks.gpu.report import Job, figure
from benchmarks.gpu.steps import CHECKED, PAPER, TURN
from dira_scale.train.models import norm

RECIPES = {"dira_moco, batch 64": ("dira_moco", *PAPER, "data.batch=64"), "labels": ("labels",)}
NEAR = 1e-2  # of how far a step moves the weights: another order of sums


def replayed(recipe: str, *keys: str, rehearse: bool) -> dict[str, Any]:
    """A step as it is launched, and as it is replayed."""
    given = words(recipe, rehearse, *keys)
    loop, steps = Ours(*given), 1 if rehearse else TURN
    for optimizer in (loop.model.optimizer, *[side.optimizer for side in loop.task.side_modules]):
        for group in optimizer.param_groups:
            group |= {"capturable": loop.device.type == "cuda"} if "capturable" in group else {}
    for number in range(CHECKED):
        loop.step(number)
    launched = 1e3 * turn(loop, CHECKED, steps)
    figures = {"launched": figure(launched, "ms", (" ".join(given), "ms"))}
    try:
        replay = captured(loop) if loop.device.type == "cuda" else partial(loop.step, CHECKED)
    except RuntimeError as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "dira_scale" in frame.filename]
        where = f"{frames[-1].filename.rpartition('dira_scale/')[2]}:{frames[-1].lineno}" if frames else "torch"
        return {"figures": figures, "left_out": f"{where} is not captured: {' '.join(str(error).split())[:300]}"}
    off = deviation(loop, replay)
    shown: Any = SimpleNamespace(device=loop.device, step=lambda *_: replay())
    graph = 1e3 * turn(shown, 0, steps)
    note = f"x launched {launched / graph:.2f}, weights off by {off:.0e}"
    return {"figures": figures | {"one graph": figure(graph, "ms", None, note, off <= NEAR)}}


def captured(loop: Ours) -> Callable[[], None]:
    """Return what replays step ``CHECKED`` of ``loop``. A graph cannot set seeds, so none are set, nor copy from the
    host: what layers of BatchNorm are of is copied before."""
    known = mock.patch.object(norm, "_on_device", cache(norm._on_device))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with known:
        with torch.cuda.stream(stream):  # memory of a capture's own stream is made ready
            for _ in range(CHECKED):
                loop.step(CHECKED)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with mock.patch.object(torch, "manual_seed"), torch.cuda.graph(graph):
            loop.step(CHECKED)
    return graph.replay


def deviation(loop: Ours, replay: Callable[[], None]) -> float:
    """Return how far the weights of ``replay`` are from a launched step's, as a share of how far a step moves them."""
    before = loop.copied()
    replay()
    ours = loop.copied()
    loop.restore(before)
    loop.step(CHECKED)
    right = loop.copied()
    weights = [name for name, weight in loop.model.module.named_parameters() if weight.requires_grad]
    off, moved = (
        torch.stack([(right[name] - other[name]).double().square().sum() for name in weights]).sum().sqrt()
        for other in (ours, before)
    )
    return float(off / moved)


def run(job: Job) -> bool:
    """Both recipes."""
    return items.run(job, {name: partial(replayed, *given, rehearse=job.rehearse) for name, given in RECIPES.items()})
