"""Plan -> shards, in parallel, resumable, the same bytes however it was cut.

While it is being made, a dataset has a folder ``.partial``::

    .partial/
      plan.json            what is being made: recipe, hash key, hash of the plan
      lock                 held by the one process that directs the work
      train-000000.tar     a shard being written; when it is whole and on the disk, it is renamed into the dataset
      train-000000.json    written after that: the shard's manifest rows and rejected inputs

A shard depends on its own part of the plan alone, so a killed conversion goes on with the shards without a ``.json``.
"""

import contextlib
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dira_scale.data.manifest import INFO_FILE, MANIFEST_FILE, DatasetInfo
from dira_scale.errors import UserError
from dira_scale.files import sync_folder, write_json
from dira_scale.ingest.plan import Item, Plan
from dira_scale.ingest.recipe import Recipe
from dira_scale.ingest.sample import Rejected, add_to_tar, make_sample

PARTIAL = ".partial"


def is_complete(out: Path, identity: dict[str, Any]) -> bool:
    """Whether ``out`` is the finished result of this recipe; False when it is empty or unfinished.

    Raises UserError when it is anything else.
    """
    if not (out / MANIFEST_FILE).exists():
        if out.exists() and any(out.iterdir()) and not (out / PARTIAL).is_dir():
            raise UserError(f"out={out} is not empty and is no sharded dataset: choose another folder")
        return False
    if different := _differences(DatasetInfo.read(out / INFO_FILE).recipe, identity):
        raise UserError(f"out={out} holds the shards of another recipe ({different}): choose another out")
    shutil.rmtree(out / PARTIAL, ignore_errors=True)  # left by a kill between the manifest and the end
    return True


@contextlib.contextmanager
def claimed(out: Path, identity: dict[str, Any], plan: Plan) -> Iterator[None]:
    """Hold ``out`` for this process; what is unfinished there must be of the same recipe and the same inputs.

    Raises UserError when another process holds it, or recipe or inputs differ.
    """
    partial = out / PARTIAL
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is writing out={out}: wait for it, or choose another out") from error
        state = partial / "plan.json"
        if not state.exists():
            write_json(state, {"recipe": identity, "plan": plan.hash})
        begun = json.loads(state.read_text())
        if different := _differences(begun["recipe"], identity):
            raise UserError(f"out={out} holds an unfinished conversion of another recipe ({different}): "
                            "give the same one, or delete the folder")  # fmt: skip
        if begun["plan"] != plan.hash:
            raise UserError(f"the images, labels or splits have changed since out={out} was begun: delete the folder "
                            "and begin again")  # fmt: skip
        yield


def _differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    here = json.loads(json.dumps(here))
    keys = [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
    return "; ".join(f"{key}: {json.dumps(there.get(key))} there, {json.dumps(here.get(key))} here" for key in keys)


def write_shards(out: Path, plan: Plan, recipe: Recipe, label_names: tuple[str, ...], workers: int) -> None:
    """Write the shards that are not there yet, with a bar and the time to go.

    Raises UserError when the disk is full or a worker dies; what is finished stays, and the same call goes on.
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
            waiting = {pool.submit(write_shard, out, shard, part, recipe, label_names) for shard, part in todo.items()}
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
                for shard in done:
                    shard.result()
                bar.update(task, completed=before + count.value, speed=count.value / (time.monotonic() - started))
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died (short of memory?); what is finished is kept: run it again, with fewer workers"
        ) from error
    except OSError as error:
        raise UserError(
            f"writing {out} failed ({error.strerror}); what is finished is kept: mend it and run the same command again"
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


def publish(part: Path, final: Path) -> None:
    """Bring a written file to the disk, then to its name."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(final)
    sync_folder(final.parent)


def state_file(out: Path, shard: str) -> Path:
    """Where the state of a finished shard is."""
    return out / PARTIAL / f"{Path(shard).stem}.json"


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
