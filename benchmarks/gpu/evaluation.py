"""What is not training: finetune's steps and evaluation, predict's sliding windows, embed with all cores."""

import contextlib
import io
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import items, steps
from benchmarks.gpu.basics import seconds
from benchmarks.gpu.loops import Ours
from benchmarks.gpu.recipes import words
from benchmarks.gpu.report import Job, figure
from dira_scale.dataset.pixels import codecs
from dira_scale.train.distributed.precision import autocast

SIDES = (160, 256, 256)  # of a CT volume


def tuned(recipe: str, rehearse: bool) -> dict[str, Any]:
    """A step of training and a batch of evaluation."""
    measured = steps.measure(steps.Rung(recipe, recipe), rehearse)
    loop = Ours(*words(recipe, rehearse))
    module, batch = loop.model.module.eval(), loop.batches[0]

    @torch.no_grad()
    def evaluated() -> None:
        loop.task.losses(loop.plan, module, batch.to(loop.device))

    taken = seconds(evaluated, loop.device)
    row = figure(1e3 * taken, "ms", (measured["expects"], "forward ms"), f"{loop.samples / taken:,.1f} samples/s")
    return measured | {"figures": measured["figures"] | {"evaluation": row}}


def windows(recipe: tuple[str, ...], sides: tuple[int, ...]) -> dict[str, Any]:
    """A volume through sliding windows, by the network that `finetune` trains on masks."""
    from dira_scale.judge.evaluation.config import SLIDING
    from dira_scale.judge.evaluation.inference import Stored, dense  # need OpenCV

    loop = Ours(*recipe)
    module, size, counted = loop.model.module.eval(), tuple(loop.batches[0].views[0].shape[2:]), [0]
    voxels = np.random.default_rng(0).integers(-1000, 1000, sides, dtype=np.int16)
    stored = Stored(codecs.encode(voxels, "npy"), "npy", sides, 3, -1000.0, 1000.0)

    @torch.no_grad()
    def network(x: torch.Tensor) -> torch.Tensor:
        counted[0] += len(x)
        with autocast(loop.device, "bf16" if loop.device.type == "cuda" else "fp32"):
            return torch.as_tensor(module(x)).float().softmax(1)

    taken = seconds(lambda: dense(network, stored, size, SLIDING, loop.device), loop.device, most=4)
    return {"figures": {"a volume": figure(1e3 * taken, "ms", note=f"{sides}, windows of {size}")}}


def embedded(job: Job, shards: Path, precision: str) -> dict[str, Any]:
    """`embed` beside a bare forward pass and its loader."""
    from benchmarks.embed import CORES, measure

    if not shards.exists():
        make(shards, job.rehearse)
    case, batch = ("test_resnet-32", 8) if job.rehearse else ("resnet50-224", 256)
    workers = 1 if job.rehearse else CORES
    keys = f"precision={precision}", f"batch={batch}", f"data.workers={workers}"
    row = measure(case, shards / "shards", 2, keys)["images_per_second"]
    slower = min(row["bare"], row["loader"])
    return {"figures": {
        "bare": figure(row["bare"], "images/s"), "loader": figure(row["loader"], "images/s"),
        "embed": figure(row["ours"], "images/s", slower, "the slower of both is expected"),
    }}  # fmt: skip


def make(folder: Path, small: bool, count: int = 512, side: int = 512, bits: int = 8) -> Path:
    """Shards of ``count`` phantom radiographs of ``side`` pixels in ``folder``."""
    from benchmarks.backends import make_shards
    from benchmarks.end_to_end import CORES

    with contextlib.redirect_stdout(io.StringIO()):
        return make_shards(folder, *((8, 128, 64, 1) if small else (count, side, side, CORES)), bits)


def run(job: Job) -> bool:
    """All of it."""
    masks = words("masks in 3D", job.rehearse)
    with tempfile.TemporaryDirectory() as name:
        each: dict[str, items.Item] = {
            "finetune labels": partial(tuned, "labels", job.rehearse),
            "finetune masks in 3D": partial(tuned, "masks in 3D", job.rehearse),
            "sliding windows": partial(windows, masks, (20, 40, 40) if job.rehearse else SIDES),
            "embed, fp32": partial(embedded, job, Path(name, "shards"), "fp32"),
        }
        if torch.cuda.is_available():
            each["embed, bf16"] = partial(embedded, job, Path(name, "shards"), "bf16")
        return items.run(job, each)
