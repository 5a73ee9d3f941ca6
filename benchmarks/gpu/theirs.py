"""The released code as a whole, as a user runs it: the authors' loop, fed by their own loader from single files.

Their loader: PIL, torchvision's transforms and torch's DataLoader, with a process per core and pinned batches
(benchmarks/loader/contenders/files.py). It distorts, so nothing is distorted on the device here; their patches are left
out, in their favour. Images are grey; the network takes one of the three equal channels that are sent.
"""

import multiprocessing
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import synthetic
from benchmarks.gpu.loops import Authors
from benchmarks.loader.contenders.files import Files, ReleasedTransforms, Workers
from benchmarks.overlap import figures
from dira_scale.data.manifest import ShardedDataset
from dira_scale.pixels import codecs

AHEAD = 2  # batches that a worker of torch's DataLoader makes in advance
SHARED = Path("/dev/shm")
MODULES = ["torchvision.transforms", "benchmarks.gpu.loaders"]  # imported once for all workers


def single_files(pngs: Sequence[Path], shards: Path) -> dict[str, Sequence[Path]]:
    """The PNGs of which ``shards`` were made, and the shards' own JPEGs, written beside these; by names of rows."""
    dataset, folder = ShardedDataset.open(shards), shards.with_name("jpg")
    folder.mkdir()
    jpegs = [folder / f"{row}.jpg" for row in range(dataset.table.num_rows)]
    for row, path in enumerate(jpegs):
        path.write_bytes(dataset.read(row))
    kinds: dict[str, Sequence[Path]] = {"png": pngs, "jpg": jpegs}
    sides = {kind: max(codecs.decode(files[0].read_bytes(), kind).shape) for kind, files in kinds.items()}
    return {f"authors, {kind.upper()} of {sides[kind]}": files for kind, files in kinds.items()}


def measure(kinds: Mapping[str, Sequence[Path]], steps: int, workers: int, keys: Sequence[str]) -> dict[str, Any]:
    """Images/s of the loop alone, and ``overlap.figures`` of each kind of files, over one turn of ``steps``."""
    composed, config = synthetic.configuration(*keys)
    loop, batch = Authors(composed, config), config.data.batch
    loop.take.distort = lambda view, _: view  # type: ignore[assignment]  # the loader has done it

    def train(count: int) -> None:
        for number in range(count):
            loop.step(number)

    train(3)
    alone = timed(lambda: train(steps), loop.device)
    multiprocessing.set_forkserver_preload(MODULES)
    if why := lacking(AHEAD * workers * batch * 2 * 3 * config.data.size**2 * 4):
        return {"step": steps * batch / alone, "loaders": {name: {"left_out": why} for name in kinds}}
    rows: dict[str, Any] = {}
    for name, files in kinds.items():
        try:
            given = Workers(
                Files(files, "RGB", ReleasedTransforms(config.data.size)), workers, batch, loop.device.type == "cuda"
            )
            with closing(given):
                batches = given.stacked(2 * (workers + steps) + AHEAD * workers)
                loader, both, wait = turn(loop, batches, workers, steps)
            rows[name] = figures([alone], [loader], [both], [wait], steps, batch)
        except Exception as error:  # one that breaks must not cost the other
            rows[name] = {"broken": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return {"step": steps * batch / alone, "loaders": rows}


def turn(loop: Authors, batches: Iterator[Tensor], warm: int, steps: int) -> tuple[float, float, float]:
    """Seconds of ``steps`` batches alone, with the loop's steps, and what of these was waiting for a batch.

    Each begins with ``warm`` untimed batches; more must follow, so that the loader works on to the end.
    """
    waited = 0.0

    def read() -> None:
        for _ in range(steps):
            next(batches)

    def train() -> None:
        nonlocal waited
        for _ in range(steps):
            began = time.perf_counter()
            stacked = next(batches)
            waited += time.perf_counter() - began
            step(loop, stacked)

    for _ in range(warm):
        next(batches)
    alone = timed(read, loop.device)
    for _ in range(warm):
        step(loop, next(batches))
    both = timed(train, loop.device)
    return alone, both, waited


def step(loop: Authors, stacked: Tensor) -> None:
    """One step on both views, [B, 2, 3, size, size] on the host."""
    first, second = stacked.to(loop.device, non_blocking=True)[:, :, :1].unbind(1)
    loop.take(replace(loop.images[0], views=(first.contiguous(), second.contiguous())))


def timed(run: Any, device: torch.device) -> float:
    """Seconds of ``run``, until the device is done."""
    wait = synthetic.wait(device)
    wait()
    began = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - began


def lacking(size: int) -> str | None:
    """Why torch's workers, which hand over batches in shared memory, would be killed here; None: they would not."""
    free = shutil.disk_usage(SHARED).free
    return f"{SHARED} has {free / 1e9:.1f} GB free, their batches need {size / 1e9:.1f}" if free < size else None
