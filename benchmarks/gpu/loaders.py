"""What feeds a step on the GPU: images/s of training from shards by each loader.

`helper`: decoded in processes of their own, which fill pinned slots of shared memory. `dali`: decoded on the GPU, where
DALI is installed. The network and settings of the ladder's first rung, at the paper's batch per GPU, whose steps are
short; the images are a few phantoms, gone through again and again. How it is measured: benchmarks/end_to_end.py. On a
GPU, beside them, what torchvision decodes there by nvJPEG, a batch at once and with nothing else.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import items
from benchmarks.gpu.basics import seconds
from benchmarks.gpu.evaluation import make
from benchmarks.gpu.recipes import words
from benchmarks.gpu.report import Job, figure
from benchmarks.gpu.steps import PAPER
from dira_scale.dataset.pixels import codecs

COMPARED = ("helper", "dali")
STORED = {"JPEG 512": (512, 8), "JPEG 1024": (1024, 8), "PNG 512, 16 bits": (512, 16)}  # pixels of a side; bits
IMAGES = 64  # a batch


def compare(rehearse: bool, side: int, bits: int) -> dict[str, Any]:
    """The figures of ``end_to_end``, of loaders that read these shards here."""
    from benchmarks.end_to_end import measure  # needs pyarrow

    turns = (1, 1) if rehearse else (2, 8)
    tiny = ["data.workers=1", "data.prefetch=1"] * rehearse
    _, *keys = words("dira_moco", rehearse, *PAPER, f"data.batch={IMAGES}", *tiny)
    with tempfile.TemporaryDirectory() as name:
        shards = make(Path(name), rehearse, IMAGES, side, bits)
        found = measure(shards, *turns, keys, COMPARED)
    figures, broken = {"steps alone": figure(found["step"], "images/s")}, list[str]()
    for loader, row in found["loaders"].items():
        if "both" in row:
            expected, note = min(row["loader"], found["step"]), f"{row['wait_ms']:.1f} ms of waiting a step"
            figures[f"{loader} alone"] = figure(row["loader"], "images/s")
            figures[f"steps fed by {loader}"] = figure(row["both"], "images/s", expected, note)
        elif "broken" in row:
            broken.append(f"{loader}: {row['broken']}")
    return {"figures": figures} | ({"failed": "; ".join(broken)} if broken else {})


def decoded() -> dict[str, Any]:
    """Return the images/s of torchvision's decoder alone."""
    from torchvision.io import decode_jpeg

    from benchmarks.backends import draw  # needs pyarrow
    from benchmarks.end_to_end import CORES

    device = torch.device("cuda")
    with tempfile.TemporaryDirectory() as name:
        drawn = [codecs.decode(path.read_bytes(), "png") for path in draw(Path(name), IMAGES, 512, CORES)]
    payloads = [torch.frombuffer(bytearray(codecs.encode(pixels, "jpg")), dtype=torch.uint8) for pixels in drawn]
    taken = seconds(lambda: decode_jpeg(payloads, device=device), device)
    return {"figures": {"alone": figure(IMAGES / taken, "images/s", note="JPEGs of 512 pixels a side")}}


def run(job: Job) -> bool:
    """All of it; whether all that could be measured was."""
    each: dict[str, items.Item] = {name: partial(compare, job.rehearse, *stored) for name, stored in STORED.items()}
    if torch.cuda.is_available():
        each["torchvision's nvJPEG"] = decoded
    return items.run(job, each, 0.7)
