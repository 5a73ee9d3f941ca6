"""Plan -> shards, in parallel, resumable, the same bytes however it was cut.

A shard depends on its own part of the plan alone, so a killed conversion goes on with the shards without a ``.json``.
"""

import multiprocessing
import os
import signal
import tarfile
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dira_scale.errors import UserError
from dira_scale.files import write_json
from dira_scale.ingest.destination import PARTIAL, publish, state_file
from dira_scale.ingest.plan import Item, Plan
from dira_scale.ingest.recipe import Recipe
from dira_scale.ingest.sample import Rejected, add_to_tar, make_sample


def write_shards(out: Path, plan: Plan, recipe: Recipe, workers: int) -> None:
    """Write the shards that are not there yet, with a bar and the time to go.

    Raises UserError when a disk or the memory fails or a worker dies; what is finished stays, the same call goes on.
    """
    todo = {shard: items for shard, items in plan.shards.items() if not state_file(out, shard).exists()}
    if not todo:
        return
    total = sum(map(len, plan.shards.values()))
    before = total - sum(map(len, todo.values()))
    context = multiprocessing.get_context("spawn")
    count, stop = context.Value("q", 0), context.Event()
    pool = ProcessPoolExecutor(min(workers, len(todo)), context, _start_worker, (count, stop))
    started = time.monotonic()
    columns = (
        TextColumn("sharding"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:.0f} images/s"),
    )
    try:
        with Progress(*columns, TimeRemainingColumn()) as bar:
            task = bar.add_task("", total=total, completed=before, speed=0.0)
            waiting = {
                pool.submit(write_shard, out, shard, part, recipe, plan.label_names) for shard, part in todo.items()
            }
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
                for shard in done:
                    shard.result()
                bar.update(task, completed=before + count.value, speed=count.value / (time.monotonic() - started))
    except (BrokenProcessPool, MemoryError) as error:
        raise UserError(
            "a worker process died (short of memory?); what is finished is kept: run it again, with fewer workers"
        ) from error
    except OSError as error:
        raise UserError(
            f"sharding to {out} failed ({error}); what is finished is kept: mend it and run the same command again"
        ) from error
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def write_shard(out: Path, name: str, items: list[Item], recipe: Recipe, label_names: tuple[str, ...]) -> None:
    """Write one shard and then its state; an input that cannot be used leaves a hole."""
    rows, rejected = [], []
    part = out / PARTIAL / name
    with part.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for item in items:
            if _worker and _worker.stop.is_set():
                return
            try:
                rows.append(add_to_tar(tar, make_sample(item, recipe), label_names) | {"shard": name})
            except Rejected as rejection:
                rejected.append({"source": item.key, "stage": rejection.stage, "reason": rejection.reason})
            if _worker:
                with _worker.count.get_lock():
                    _worker.count.value += 1
    publish(part, out / name)
    write_json(state_file(out, name), {"rows": rows, "rejected": rejected})


class _Worker(NamedTuple):
    count: Any  # images done by all workers
    stop: Any  # set when the work is to end early


_worker: _Worker | None = None  # in a worker process


def _start_worker(count: Any, stop: Any) -> None:
    """Ctrl-C is the parent's business, and a worker does not outlive a parent that was killed."""
    global _worker
    _worker = _Worker(count, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
