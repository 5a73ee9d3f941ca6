"""Does a GPU compute what a CPU does, never wait for the host, and do the same twice? A minute, before any speed.

    python -m benchmarks.gpu.steady OUT [--batch 64] [--size 224] [--rehearse]

`distort`: the distortion of a batch compared with the CPU's, with IEEE fp32 and with tf32 products. `waits`: every
operation in three steps for which the host waits, with its stack (torch.cuda.set_sync_debug_mode). `repeat`: two runs
of five steps from one seed, which must be equal bit for bit. `repeat ViT`: the same of a ViT-B/16.
"""

import argparse
import gc
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import synthetic
from benchmarks.gpu.loops import Ours, images
from benchmarks.gpu.report import Report
from benchmarks.gpu.rungs import BEST, NETWORKS, TINY
from dira_scale.data.distort import BatchedDistort
from dira_scale.data.views import ViewSpec
from dira_scale.distributed.precision import set_fp32

NETWORK, VIT = "MoCo ResNet-50", "MoCo ViT-B/16"
ROOT = str(Path(__file__).parents[2])
WARM, WATCHED, DEPTH = 2, 3, 4  # steps before the watched ones; these; lines of a place
SYNCHRONISED = "called a synchronizing"  # torch's words for an operation that waits
NEAR = 1e-5  # of IEEE products in another order


def distort(views: ViewSpec, count: int, device: torch.device) -> dict[str, Any]:
    """Largest difference from the CPU's distortion, images being in [0, 1]."""
    given = synthetic.batch(views, count, 0, torch.device("cpu")).to("cpu")
    there = given.to(device)
    expected = BatchedDistort(views)(given.views[0], given.distortions[0])
    module, result = BatchedDistort(views).to(device), {}
    for precision in ("fp32", "tf32"):
        set_fp32(precision)
        result[precision] = float((module(there.views[0], there.distortions[0]).cpu() - expected).abs().max())
    return {"fine": result["fp32"] <= NEAR, "off by": {name: f"{value:.1e}" for name, value in result.items()}}


def waits(keys: Sequence[str]) -> dict[str, Any]:
    """Where the host waited in steps on batches that lie on the host, as loaders leave them."""
    composed, config = synthetic.configuration(*keys)
    loop = Ours(composed, config)
    loop.images = images(config, torch.device("cpu"))
    for number in range(WARM):
        loop.step(number)
    if loop.device.type != "cuda":
        loop.step(WARM)
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
                loop.step(number)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    places = [{"message": text, "times": times, "stack": stack} for (text, stack), times in result.items()]
    return {"fine": not places, "steps": WATCHED, "places": places}


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


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--rehearse", action="store_true")
    asked = parser.parse_args(argv)
    if asked.rehearse:
        asked.batch, asked.size = 8, 32
    device, report = torch.device("cuda" if torch.cuda.is_available() else "cpu"), Report(asked.out)
    given = f"data.batch={asked.batch}", f"data.size={asked.size}"
    keys, vit = ([*NETWORKS[name], *BEST, *(TINY[name] if asked.rehearse else ()), *given] for name in (NETWORK, VIT))
    result: dict[str, Any] = {}
    for name, check in {
        "distort": lambda: distort(ViewSpec(size=asked.size), asked.batch, device),
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
        report.add(steady=result)
    return 0 if all(outcome["fine"] for outcome in result.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
