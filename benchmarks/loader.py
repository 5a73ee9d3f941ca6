"""Images/s of the CPU loader for several codecs and sizes, compared with a bare loop of decode + crop + resize.

    python benchmarks/loader.py [--json loader.json] [--rounds 3]

It makes phantom radiographs, shards them once per case and measures every number of threads up to the available cores.
Bare loop and loader take turns within each round, so that a busy machine slows both; the ratios are medians over the
rounds. An image gives two views. Ratio 1 with one thread means that the loader adds no overhead to decoding.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from dira_scale.data import codecs
from dira_scale.data.loaders.build import choose
from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.order import Order
from dira_scale.data.resize import resize
from dira_scale.data.views import ViewSpec, draw
from dira_scale.shard import main as shard

BATCH, SECONDS = 16, 1.0


@dataclass(frozen=True)
class Case:
    codec: str
    bits: int
    stored: int  # pixels of the longer side
    view: int  # pixels of a view


CASES = [
    Case("jpg", 8, 256, 64), Case("png", 8, 256, 64), Case("npy", 8, 256, 64), Case("jpg", 8, 1024, 64),
    Case("jpg", 8, 512, 224), Case("png", 8, 512, 224), Case("png", 16, 512, 224), Case("jp2", 16, 512, 224),
    Case("npy", 16, 512, 224), Case("jpg", 8, 1024, 224), Case("jp2", 16, 1024, 224),
]  # fmt: skip


def make_shards(folder: Path, case: Case) -> ShardedDataset:
    out = folder / f"{case.codec}{case.bits}_{case.stored}"
    code = shard(  # the phantoms are made by the first of these calls, and read again by the others
        [
            "recipe=phantom_cxr", f"+recipe.folder={folder}/dicom", "recipe.patients=8", "recipe.size=1024",
            f"out={out}", f"recipe.codec={case.codec}", f"recipe.bits={case.bits}", f"recipe.max_side={case.stored}",
            "recipe.splits={train: 1, val: 0, test: 0}",
        ]
    )  # fmt: skip
    assert code == 0
    return ShardedDataset.open(out)


def bare_loop(dataset: ShardedDataset, spec: ViewSpec) -> Callable[[int], None]:
    """Decode whole, crop, resize; one thread, payloads in memory, parameters drawn before."""
    rows = dataset.rows("train")
    payloads = [dataset.read(row) for row in rows]
    sides = dataset.column("height")[rows], dataset.column("width")[rows]
    boxes = [draw(spec, 0, 0, rows, np.zeros_like(rows), view, *sides)[0].box.tolist() for view in range(spec.count)]
    codec = dataset.info.codec

    def run(batches: int) -> None:
        for i in range(batches * BATCH):
            pixels = codecs.decode(payloads[i % len(rows)], codec)
            for view in boxes:
                y, x, h, w = view[i % len(rows)]
                resize(pixels[y : y + h, x : x + w], (0, 0, h, w), spec.size)

    return run


def loader_run(dataset: ShardedDataset, spec: ViewSpec, workers: int) -> Callable[[int], None]:
    order = Order((len(dataset.rows("train")),), seed=0, batch=BATCH, remainder="wrap")
    loader = choose("cpu").build(datasets=[dataset], split="train", order=order, views=spec, seed=0, workers=workers)

    def run(batches: int) -> None:
        for _ in loader.iterate(0, batches):
            pass

    return run


def speed(run: Callable[[int], None]) -> float:
    """Images/s over about SECONDS."""
    began = perf_counter()
    run(2)
    batches = max(2, round(2 * SECONDS / (perf_counter() - began)))
    began = perf_counter()
    run(batches)
    return batches * BATCH / (perf_counter() - began)


def measure(case: Case, dataset: ShardedDataset, threads: list[int], rounds: int) -> dict[str, Any]:
    spec = ViewSpec(size=case.view)
    runs = [bare_loop(dataset, spec), *(loader_run(dataset, spec, workers) for workers in threads)]
    speeds = [[speed(run) for run in runs] for _ in range(rounds)]
    return asdict(case) | {
        "bytes_per_image": statistics.mean(dataset.column("size").tolist()),
        "bare": statistics.median(row[0] for row in speeds),
        "loader": {n: statistics.median(row[1 + i] for row in speeds) for i, n in enumerate(threads)},
        "ratio": {n: statistics.median(row[1 + i] / row[0] for row in speeds) for i, n in enumerate(threads)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    threads = sorted({1, *(2**i for i in range(8) if 2**i <= cores), cores})
    rows = []
    with tempfile.TemporaryDirectory() as name:
        datasets = [make_shards(Path(name), case) for case in CASES]
        print("\ncodec bits stored view   kB/image  bare/s " + "".join(f"{f'x{n} thread':>12}" for n in threads))
        for case, dataset in zip(CASES, datasets, strict=True):
            rows.append(row := measure(case, dataset, threads, arguments.rounds))
            print(
                f"{case.codec:5} {case.bits:4} {case.stored:6} {case.view:4} {row['bytes_per_image'] / 1e3:10.1f}"
                f" {row['bare']:7.0f} " + "".join(f"{row['ratio'][n]:12.2f}" for n in threads), flush=True
            )  # fmt: skip
    if arguments.json:
        environment = {"machine": platform.machine(), "cores": cores, "python": platform.python_version()}
        arguments.json.write_text(json.dumps({"environment": environment, "cases": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
