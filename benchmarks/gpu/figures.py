"""A rung's figures: seconds of its steps, what the host takes, their parts on the device, memory, first losses."""

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import synthetic
from benchmarks.gpu.loops import Authors, Loop, Ours
from benchmarks.gpu.rungs import COMPILED, NETWORKS, Rung
from benchmarks.gpu.split import Split

CHECKED, TURN = 3, 5  # first steps whose losses are compared; steps of a turn, of which a rehearsal takes one


def measure(rung: Rung, keys: Sequence[str], seconds: float, steps: int = TURN) -> dict[str, Any]:
    """A rung's figures over about ``seconds`` of turns of ``steps``, its first losses among them."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() if cuda else None
    loop, batch = build(rung, keys)
    losses, began = [], time.perf_counter()
    for number in range(CHECKED):
        loop.step(number)
        losses.append(loop.losses())
    warm = time.perf_counter() - began
    step = [turn(loop, number, steps) for number in _until(time.perf_counter() + seconds)]
    with Split(loop.parts, loop.device) as split:
        turn(loop, CHECKED, steps)
    result = {
        "batch": batch,
        "seconds_per_step": statistics.median(step),
        "images_per_second": batch / statistics.median(step),
        "turns": step,
        "parts_ms": {part: value / steps for part, value in split.milliseconds().items()},
        "first_steps_seconds": warm,
        "peak_memory": torch.cuda.max_memory_allocated() if cuda else None,
        "memory_before": held,  # what earlier rungs have left
        "losses": losses,
        "threads": torch.get_num_threads(),
    }
    if rung.kind == "fp32":  # the same in all of a network's rungs
        result["flops_per_image"] = count(loop, CHECKED) / batch
    if rung.name == COMPILED:  # it would be compiled for these sizes anew
        return result | {"host_seconds_per_step": None}
    turn(loop, CHECKED, 1, few=True)  # kernels are chosen for these sizes anew
    host = [turn(loop, number, steps, few=True) for number in _until(time.perf_counter() + seconds / 8)]
    return result | {"host_seconds_per_step": statistics.median(host)}


def build(rung: Rung, keys: Sequence[str]) -> tuple[Loop, int]:
    """A rung's loop, and how many images a step of it takes."""
    composed, config = synthetic.configuration("model.bn_groups=1", *NETWORKS[rung.network], *rung.keys, *keys)
    loop: Loop = Authors(composed, config) if rung.authors else Ours(composed, config)
    if rung.free:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    return loop, config.data.batch


def _until(end: float) -> Iterator[int]:
    """Numbers of the first steps of turns, of one at least."""
    for i in itertools.count():
        yield CHECKED + i * TURN
        if time.perf_counter() >= end:
            return


def turn(loop: Loop, number: int, steps: int, few: bool = False) -> float:
    """Seconds of one of ``steps`` steps from ``number`` on."""
    wait = synthetic.wait(loop.device)
    wait()
    began = time.perf_counter()
    for i in range(steps):
        loop.step(number + i, few)
    wait()
    return (time.perf_counter() - began) / steps


def count(loop: Loop, number: int) -> int:
    """Floating-point operations of the products of a step, forward and backward; a multiplication and an addition are
    two. Attention is taken apart for it, whose fused CPU kernel is not known to torch's counter."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loop.step(number)
    return int(counter.get_total_flops())
