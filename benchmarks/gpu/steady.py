"""Does a GPU's step never wait for the host, and do the same twice? Half a minute, before any speed.

`waits`: every operation in three steps for which the host waits, with its stack (torch.cuda.set_sync_debug_mode).
`repeat`: two runs of five steps from one seed, which must be equal bit for bit. `repeat ViT`: the same of a ViT-B/16.
"""

import gc
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import synthetic
from benchmarks.gpu.loops import Ours, images
from benchmarks.gpu.report import Job
from benchmarks.gpu.rungs import BEST, NETWORKS, TINY

NETWORK, VIT = "MoCo ResNet-50", "MoCo ViT-B/16"
ROOT = str(Path(__file__).parents[2])
WARM, WATCHED, DEPTH = 2, 3, 4  # steps before the watched ones; these; lines of a place
SYNCHRONISED = "called a synchronizing"  # torch's words for an operation that waits


def waits(keys: Sequence[str]) -> dict[str, Any]:
    """Where the host waited in steps on batches that lie on the host, as loaders leave them."""
    composed, config = synthetic.configuration(*keys)
    loop = Ours(composed, config)
    loop.images = images(config, torch.device("cpu"))
    for number in range(WARM):
        loop.step(number)
    return watched(loop.step, loop.device)


def watched(step: Callable[[int], None], device: torch.device) -> dict[str, Any]:
    """Where the host waits in three steps, after ``WARM`` others."""
    if device.type != "cuda":
        step(WARM)
        return {"fine": True, "why": "there is no GPU to wait for"}
    result: Counter[tuple[str, tuple[str, ...]]] = Counter()

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        if SYNCHRONISED not in str(message):  # torch says that this mode is a prototype, for one
            return
        frames = [f for f in traceback.extract_stack() if f.filename.startswith(ROOT) and f.filename != __file__]
        stack = tuple(f"{Path(f.filename).relative_to(ROOT)}:{f.lineno} {f.line}" for f in frames[-DEPTH:])
        result[str(message).split("(")[0].strip(), stack] += 1

    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for number in range(WARM, WARM + WATCHED):
                step(number)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    locations = [{"message": text, "times": times, "stack": stack} for (text, stack), times in result.items()]
    return {"fine": not locations, "steps": WATCHED, "places": locations}


def repeat(keys: Sequence[str]) -> dict[str, Any]:
    """Two runs' states and losses, compared bit for bit; names of what differs."""
    ends = []
    for _ in range(2):
        composed, config = synthetic.configuration(*keys)
        loop = Ours(composed, config)
        for number in range(WARM + WATCHED):
            loop.step(number)
        ends.append((loop.losses(), {name: tensor.cpu() for name, tensor in loop.state().items()}))
        del loop
        gc.collect()
    (losses, state), (losses_again, again) = ends
    different = [name for name in state if not torch.equal(state[name], again[name])]
    different += [name for name in losses if losses[name] != losses_again[name]]
    return {"fine": not different, "tensors": len(state), "different": different[:20]}


def run(job: Job) -> bool:
    """All of it; whether it was fine."""
    given = ("data.batch=8", "data.size=32") if job.rehearse else ("data.batch=64", "data.size=224")
    keys, vit = ([*NETWORKS[name], *BEST, *(TINY[name] if job.rehearse else ()), *given] for name in (NETWORK, VIT))
    result: dict[str, Any] = {}
    for name, check in {
        "waits": lambda: waits(keys),  # with the default's four BatchNorm groups and the key shuffle that they need
        "repeat": lambda: repeat(keys),
        "repeat ViT": lambda: repeat(vit),
    }.items():
        try:
            result[name] = check()
        except Exception as error:  # one that breaks must not cost the others
            traceback.print_exc()
            result[name] = {"fine": False, "why": f"{type(error).__name__}: {error}"}
        print(f"{name}: {result[name]}", flush=True)
        job.report.add(steady=result)
    return all(outcome["fine"] for outcome in result.values())
