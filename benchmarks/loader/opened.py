"""What resuming on a dataset takes: a process of its own, so that its memory is its own.

python -m benchmarks.loader.opened open DATASET ROUNDS 0            what ``grow.py`` starts; prints JSON
python -m benchmarks.loader.opened read DATASET SAMPLES WORKERS
"""

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import psutil
import pyarrow.parquet as pq

from dira_scale.data.loaders import LoaderSpec
from dira_scale.data.loaders.build import choose
from dira_scale.data.manifest import MANIFEST_FILE, ShardedDataset
from dira_scale.data.order import Order
from dira_scale.data.views import ViewSpec

BATCH, VIEWS = 64, ViewSpec(size=32)
T = TypeVar("T")


def opening(path: Path, rounds: int) -> dict[str, Any]:
    """Seconds of each part, round by round; the first round's peak of resident memory, above that before."""
    before, rng = psutil.Process().memory_info().rss, np.random.default_rng(0)
    results: dict[str, list[float]] = {part: [] for part in ("open", "hash", "build", "first", "whole", "table")}
    peak = 0.0

    def timed(part: str, work: Callable[[], T]) -> T:
        began = perf_counter()
        done = work()
        results[part].append(perf_counter() - began)
        return done

    for _ in range(rounds):
        began = perf_counter()
        dataset = timed("open", lambda: ShardedDataset.open(path))
        identity = timed("hash", lambda: dataset.hash)  # noqa: B023 (called at once)
        loader, order = timed("build", lambda: build(dataset, identity, 1))  # noqa: B023
        step = int(rng.integers(order.steps_per_epoch))
        timed("first", lambda: next(loader.iterate(step, step + 1)))  # noqa: B023
        results["whole"].append(perf_counter() - began)
        peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        timed("table", lambda: pq.read_table(path / MANIFEST_FILE, memory_map=True))
    return results | {"rows": order.sizes[0], "shards": len(dataset.info.shards), "peak_mb": peak / 1e6}


def build(dataset: ShardedDataset, identity: str, workers: int) -> tuple[Any, Order]:
    """The cpu loader and its order."""
    order = Order((len(dataset.rows("train")),), seed=0, batch=BATCH, identity=identity)
    return choose("cpu").build(LoaderSpec([dataset], "train", order, VIEWS, seed=0, workers=workers)), order


def reading(path: Path, samples: int, workers: int) -> dict[str, Any]:
    """Resident memory at eleven moments of reading ``samples``, the first one after a few batches."""
    loader, _ = build(ShardedDataset.open(path), "", workers)
    steps, process, resident = samples // BATCH, psutil.Process(), []
    moments = set(np.linspace(min(10, steps - 1), steps - 1, 11).astype(int).tolist())
    for step, _ in enumerate(loader.iterate(0, steps)):
        if step in moments:
            resident.append(process.memory_info().rss / 1e6)
    return {"samples": steps * BATCH, "resident_mb": resident}


if __name__ == "__main__":
    what, dataset, first, second = sys.argv[1:]
    result = opening(Path(dataset), int(first)) if what == "open" else reading(Path(dataset), int(first), int(second))
    print(json.dumps(result))
