"""Does a GPU's step never wait for the host, do the same twice, and distort as a CPU does? Before any speed.

`waits`: every operation in three steps for which the host waits, with its stack (torch.cuda.set_sync_debug_mode), and,
of which that mode says nothing, every copy from memory that is not pinned in one step more.
`repeat`: two runs of five steps from one seed, which must be equal bit for bit. `distort`: a view's corruptions.
"""

import gc
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import items, pageable
from benchmarks.gpu.loops import Ours
from benchmarks.gpu.recipes import RECIPES, words
from benchmarks.gpu.report import Job, figure
from benchmarks.synthetic import blueprint, filled
from dira_scale.train.data import distort

ROOT = str(Path(__file__).parents[2])
WARM, WATCHED, DEPTH = 2, 3, 4  # steps before the watched ones; these; lines of a place
SYNCHRONISED = "called a synchronizing"  # torch's words for an operation that waits
REPEATED = ("dira_moco", "ViT-B/16", "models_genesis", "mae3d")  # ResNet, ViT, U-Net and ResEnc of volumes
DISTORTED = ("dira_moco", "models_genesis", "dira_transvw", "pcrl3d")
NEAR, FAR, RARE = 1e-4, 1e-2, 1e-3  # a mean difference of views from 0 to 1; one of a voxel, and their share


def waits(*recipe: str) -> dict[str, Any]:
    """Where the host waited in steps on batches that lie on the host, as loaders leave them; and which copies of one on
    the device's own batches would wait, as their source is not pinned."""
    loop = Ours(*recipe)
    arrived, loop.batches = loop.batches, [batch.copy_to("cpu") for batch in loop.batches]
    for number in range(WARM):
        loop.step(number)
    places = watched(loop.step, loop.device)
    loop.batches = arrived
    with pageable.PageableCopies() as copies:
        loop.step(WARM + WATCHED)
    places += [{"message": "copied what is not pinned", "times": 1, "stack": _own(found)} for found in copies.found]
    times = sum(where["times"] for where in places)
    return {"figures": {"waits": figure(times, f"in {WATCHED} steps", 0, fine=not times)}, "places": places}


def _own(stack: traceback.StackSummary) -> tuple[str, ...]:
    """The last places of ours in a stack."""
    frames = [f for f in stack if f.filename.startswith(ROOT) and f.filename not in (__file__, pageable.__file__)]
    return tuple(f"{Path(f.filename).relative_to(ROOT)}:{f.lineno} {f.line}" for f in frames[-DEPTH:])


def watched(step: Callable[[int], None], device: torch.device) -> list[dict[str, Any]]:
    """Where the host waits in three steps, after ``WARM`` others."""
    if device.type != "cuda":
        step(WARM)
        return []
    result: Counter[tuple[str, tuple[str, ...]]] = Counter()

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        if SYNCHRONISED not in str(message):  # torch says that this mode is a prototype, for one
            return
        result[str(message).split("(")[0].strip(), _own(traceback.extract_stack())] += 1

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
    return [{"message": text, "times": times, "stack": stack} for (text, stack), times in result.items()]


def repeat(*recipe: str) -> dict[str, Any]:
    """Two runs' states and losses, compared bit for bit; names of what differs."""
    ends = list[tuple[dict[str, float], dict[str, Tensor]]]()
    for _ in range(2):
        loop = Ours(*recipe)
        for number in range(WARM + WATCHED):
            loop.step(number)
        ends.append((loop.losses(), {name: tensor.cpu() for name, tensor in loop.state().items()}))
        del loop
        gc.collect()
    (losses, state), (losses_again, again) = ends
    different = [name for name in state if not torch.equal(state[name], again[name])]
    different += [name for name in losses if losses[name] != losses_again[name]]
    row = figure(len(different), f"of {len(state)} tensors differ", 0, ", ".join(different[:8]), not different)
    return {"figures": {"two runs": row}}


def distorted(*recipe: str) -> dict[str, Any]:
    """A recipe's views, distorted here and on a CPU, where products may be rounded to tf32 and where not."""
    made, device = blueprint(*recipe), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cpu = torch.device("cpu")
    batch = filled(made.shapes.batch(min(16, made.config.data.batch)), torch.Generator().manual_seed(0), cpu).to(cpu)
    figures = {}
    for tf32 in (False, True):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        for number, (spec, view, given) in enumerate(
            zip(made.views.each, batch.views, batch.distortions, strict=True)
        ):  # fmt: skip
            module = distort.build_batched(spec)
            here = module.to(device)(view.to(device), given.to(device)).cpu()
            off = (here - module.to(cpu)(view, given)).abs()
            mean, far = float(off.mean()), float((off > FAR).float().mean())
            note = f"{100 * far:.2g} % off by more than {FAR}"
            name = f"view {number}{', tf32 allowed' * tf32}"
            figures[name] = figure(mean, "mean difference from a CPU's", None, note, mean <= NEAR and far <= RARE)
    return {"figures": figures}


def run(job: Job) -> bool:
    """All of it; whether it was fine."""
    each: dict[str, items.Item] = {}
    for kind, check, names in (
        ("distort", distorted, DISTORTED), ("repeat", repeat, REPEATED), ("waits of", waits, tuple(RECIPES))
    ):  # fmt: skip
        each |= {f"{kind} {name}": partial(check, *words(name, job.rehearse)) for name in names}
    return items.run(job, each)
