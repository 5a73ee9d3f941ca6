"""What feeds a step on the GPU: images/s of training from shards by each loader.

`cpu`: decoding threads in the training process (data.helper=false), whose Python also launches the step. `helper`: in
processes of their own, which fill pinned slots of shared memory. `dali`: decoded on the GPU, where DALI is installed.
The network and settings of the ladder's first rung, at the paper's batch per GPU, whose steps are short; the images
are a few phantoms, gone through again and again. How it is measured: benchmarks/end_to_end.py.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu import items
from benchmarks.gpu.evaluation import make
from benchmarks.gpu.recipes import words
from benchmarks.gpu.report import Job, figure
from benchmarks.gpu.steps import PAPER
from benchmarks.turns import turn_of

COMPARED = ("cpu", "helper", "dali")
STORED = {"JPEG 512": (512, 8), "JPEG 1024": (1024, 8), "PNG 512, 16 bits": (512, 16)}  # pixels of a side; bits
IMAGES = 64  # a batch
FEW = (1, 4)  # threads of `cpu`, which reads JPEG 512 by so many alone, too


def compare(rehearse: bool, side: int, bits: int) -> dict[str, Any]:
    """The figures of ``end_to_end``, of loaders that read these shards here."""
    from benchmarks.end_to_end import measure  # needs pyarrow

    turns = (1, 1) if rehearse else (2, 8)
    tiny = ["data.workers=1", "data.prefetch=1"] * rehearse
    _, *keys = words("dira_moco", rehearse, *PAPER, f"data.batch={IMAGES}", *tiny)
    with tempfile.TemporaryDirectory() as name:
        shards = make(Path(name), rehearse, IMAGES, side, bits)
        found = measure(shards, *turns, keys, COMPARED)
        few = by_threads(shards, rehearse) if (side, bits) == STORED["JPEG 512"] else {}
    figures, broken = {"steps alone": figure(found["step"], "images/s")} | few, list[str]()
    for loader, row in found["loaders"].items():
        if "both" in row:
            expected, note = min(row["loader"], found["step"]), f"{row['wait_ms']:.1f} ms of waiting a step"
            figures[f"{loader} alone"] = figure(row["loader"], "images/s")
            figures[f"steps fed by {loader}"] = figure(row["both"], "images/s", expected, note)
        elif "broken" in row:
            broken.append(f"{loader}: {row['broken']}")
    return {"figures": figures} | ({"failed": "; ".join(broken)} if broken else {})


def by_threads(shards: Path, rehearse: bool) -> dict[str, Any]:
    """The rates of `cpu` alone by a few threads; some three seconds."""
    from benchmarks.loader.tune import BATCH, LoaderSetting
    from dira_scale.dataset.manifest import ShardedDataset

    dataset, figures = ShardedDataset.open(shards), {}
    for threads in FEW:
        loader = LoaderSetting("cpu", False, threads, 4, 32 if rehearse else 224, "cpu").build(dataset)
        turn = turn_of(partial(loader.iterate, 0), BATCH)
        figures[f"cpu alone, {threads} thread(s)"] = figure(turn(0.1 if rehearse else 0.5).rate, "images/s")
    return figures


def run(job: Job) -> bool:
    """All of it; whether all that could be measured was."""
    return items.run(job, {name: partial(compare, job.rehearse, *stored) for name, stored in STORED.items()}, 0.7)
