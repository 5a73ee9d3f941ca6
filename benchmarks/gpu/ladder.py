"""How fast is a training step, from the authors' loop to our fastest settings, one change per rung?

Each rung (benchmarks/gpu/rungs.py) starts from the same weights and images; the losses of its first steps must be those
of IEEE fp32 within its precision's tolerance, else its speed is invalid. Rungs for which there is no time left are
named and not run. The table in gpu.json is updated after every rung; rungs that it already has are not run again.

images/s and ms: median over turns of five steps. x authors: at the same batch. Host ms: of a step on eight images,
where the GPU always waits for the host. TFLOP/s: the products that a step of our loop needs, as
torch.utils.flop_counter counts them, divided by its time; unneeded ones of the authors' loop are not counted. Share of
peak: of the vendor's figure for the rung's kind of product. Memory: torch's peak allocation.
"""

import gc
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partialmethod
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import synthetic
from benchmarks.gpu.loops import Authors, Ours, alone, loopback
from benchmarks.gpu.report import Job
from benchmarks.gpu.rungs import COMPILED, NETWORKS, SHARDED, TINY, Rung, rungs
from benchmarks.gpu.table import HEAD, finish, line, sound

BROKEN = "its process ended while it was measured"
BATCH, SIZE = 256, 224
TURNS = 3.0  # seconds of measuring a rung
CHECKED, TURN = 3, 5  # first steps whose losses are compared; steps of a turn, of which a rehearsal takes one


def run(job: Job) -> bool:
    """All rungs that fit into the time; whether they ended well."""
    print(HEAD, flush=True)
    return sound(climb(job))


def climb(job: Job, chosen: Sequence[Rung] | None = None) -> dict[str, Any]:
    """The rungs that stand in no report yet and fit into ``job.seconds``; the report is written after each.

    ``chosen``: only these.
    """
    began, longest, network = time.perf_counter(), 0.0, None
    report = (job.report.read().get("ladder") or _empty(job, chosen or rungs())) | {"lost": False}
    for rung in [rung for rung in rungs() if rung.title in report["not_run"]]:
        start = time.perf_counter()
        if job.seconds - (start - began) < longest:  # it would take no less than the longest so far
            continue
        report["not_run"].remove(rung.title)
        row: dict[str, Any] = {"network": rung.network, "rung": rung.name, "kind": rung.kind, "authors": rung.authors}
        row |= {"alike": rung.alike, "failed": BROKEN}
        report["rungs"].append(row)
        job.report.add(ladder=report)
        result = attempt(rung, job.rehearse)
        del row["failed"]
        row |= result
        longest = max(longest, time.perf_counter() - start)
        finish(report["rungs"], report["device"])
        print(*([rung.network] if rung.network != network else []), line(row), sep="\n", flush=True)
        network = rung.network
        report["lost"] = lost()
        job.report.add(ladder=report)
        if report["lost"]:
            break
    return report


def _empty(job: Job, chosen: Sequence[Rung]) -> dict[str, Any]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    report: dict[str, Any] = {"device": device, "torch": torch.__version__, "rehearsal": job.rehearse, "rungs": []}
    # What is not run is named from the start: this may be stopped from outside at any time.
    return report | {"batch": BATCH, "size": SIZE, "not_run": [rung.title for rung in chosen]}


def attempt(rung: Rung, rehearse: bool) -> dict[str, Any]:
    """``measure``, or why it did not come to an end; the device's memory is free again after it."""
    if rung.keys == SHARDED and not loopback():  # torch would try for half an hour
        return {"left_out": "this machine's loopback network is down, which a process group needs"}
    keys = [f"data.batch={rung.batch or BATCH}", f"data.size={SIZE}"]
    try:
        with alone():
            if not rehearse:
                return measure(rung, keys, TURNS)
            with traced_only():
                return measure(rung, ["data.batch=8", "data.size=32", *TINY[rung.network]], 0, 1)
    except torch.cuda.OutOfMemoryError:
        return {"failed": "out of memory"}
    except Exception as error:  # a rung that breaks must not cost the others
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    finally:
        gc.collect()
        if torch.cuda.is_available() and not lost():
            torch.cuda.empty_cache()


def measure(rung: Rung, keys: Sequence[str], seconds: float, steps: int = TURN) -> dict[str, Any]:
    """A rung's figures over about ``seconds`` of turns of ``steps``, its first losses among them."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() if cuda else None
    loop, batch = build(rung, keys)
    losses = []
    for number in range(CHECKED):
        loop.step(number)
        losses.append(loop.losses())
    step = [turn(loop, number, steps) for number in _until(time.perf_counter() + seconds)]
    result = {
        "batch": batch,
        "seconds_per_step": statistics.median(step),
        "images_per_second": batch / statistics.median(step),
        "turns": step,
        "peak_memory": torch.cuda.max_memory_allocated() if cuda else None,
        "memory_before": held,  # what earlier rungs have left
        "losses": losses,
    }
    if rung.kind == "fp32":  # the same in all of a network's rungs
        result["flops_per_image"] = count(loop, CHECKED) / batch
    if rung.name == COMPILED:  # it would be compiled for these sizes anew
        return result | {"host_seconds_per_step": None}
    turn(loop, CHECKED, 1, few=True)  # kernels are chosen for these sizes anew
    host = [turn(loop, number, steps, few=True) for number in _until(time.perf_counter() + seconds / 8)]
    return result | {"host_seconds_per_step": statistics.median(host)}


def build(rung: Rung, keys: Sequence[str]) -> tuple[Ours | Authors, int]:
    """A rung's loop, and how many images a step of it takes."""
    composed, config = synthetic.configuration("model.bn_groups=1", *NETWORKS[rung.network], *rung.keys, *keys)
    loop = Authors(composed, config) if rung.authors else Ours(composed, config)
    if rung.free:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    return loop, config.data.batch


def _until(end: float) -> Iterator[int]:
    """Numbers of the first steps of turns, of one at least."""
    for i in itertools.count():
        yield CHECKED + i * TURN
        if time.perf_counter() >= end:
            return


def turn(loop: Ours | Authors, number: int, steps: int, few: bool = False) -> float:
    """Seconds of one of ``steps`` steps from ``number`` on."""
    wait = synthetic.wait(loop.device)
    wait()
    began = time.perf_counter()
    for i in range(steps):
        loop.step(number + i, few)
    wait()
    return (time.perf_counter() - began) / steps


def count(loop: Ours | Authors, number: int) -> int:
    """Floating-point operations of the products of a step, forward and backward; a multiplication and an addition are
    two. Attention is taken apart for it, whose fused CPU kernel is not known to torch's counter."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loop.step(number)
    return int(counter.get_total_flops())


def traced_only() -> AbstractContextManager[Any]:
    """Compiled blocks are traced and differentiated, but no machine code is made, which takes a CPU minutes."""
    return mock.patch.object(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))


def lost() -> bool:
    """Whether the device answers no more: after an illegal access, say, only another process can go on."""
    try:
        synthetic.wait(torch.device("cuda" if torch.cuda.is_available() else "cpu"))()
    except RuntimeError:
        return True
    return False
