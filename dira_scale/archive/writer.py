"""Write the plan's shards: parallel, resumable, the same bytes however the work is divided.

A shard depends only on its part of the plan, so a killed conversion resumes with the shards that lack a ``.json``.
"""

import logging
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from dira_scale.archive.plan import PlannedShards
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.slices import Noted, Refused, make_samples
from dira_scale.base.errors import UserError
from dira_scale.base.machine.progress import bar
from dira_scale.base.machine.workers import CONTEXT, worker_pool
from dira_scale.dataset.manifest.tar import Sample, add_to_tar, checksum


class WrittenShard(NamedTuple):
    """A written shard."""

    size: int  # bytes
    xxh3: str  # of the whole file, hex
    rows: list[dict[str, Any]]  # of the manifest
    rejected: list[dict[str, str]]  # of the quarantine
    noted: list[str]  # what is odd about accepted inputs, once for each


logger = logging.getLogger(__name__)
TRIED = 50  # inputs after which a conversion that refuses most of them says so
MOST = 0.5
REASON = 300  # bytes of one that are shown


class Conversion(NamedTuple):
    """The conversion of a plan's items to samples."""

    make: Callable[[Any], Iterator[Sample | Refused | Noted]]  # of one item; picklable
    mixed: bool = False  # manifest rows in random order; else in that of the items
    doing: str = "sharding"
    kind: str = "images"


Done = Callable[[str, Path, WrittenShard], None]  # called with a written shard: its name, the file, its content


def sharding(recipe: Recipe) -> Conversion:
    """Inputs to samples as the recipe says. Slices are mixed, as consecutive rows are the batches of validation; the
    tar keeps a volume's order."""
    kind = "volumes" if recipe.dims == 3 else "images"
    return Conversion(partial(make_samples, recipe=recipe), mixed=recipe.slices is not None, kind=kind)


def write_shards(
    shards: Sequence[str],
    plan: PlannedShards,
    work: Conversion,
    workers: int,
    scratch: Path,
    done: Done,
    before: int = 0,
) -> None:
    """Write ``shards`` to the folder ``scratch``; the workers call ``done`` (picklable) for each.

    ``before``: items done by an earlier call, for the progress bar.

    Raises:
        UserError: a worker has died.
        OSError: caused by the machine, not by an input.
    """
    if not shards:
        return
    count, stop = CONTEXT.Value("q", 0), CONTEXT.Event()
    refused, warned = CONTEXT.Value("q", 0), False
    reason: Any = CONTEXT.Array("c", REASON)
    workers = min(workers, len(shards))
    pool = worker_pool(workers, __name__, _start_worker, count, stop, refused, reason)
    started = time.monotonic()
    total = before + sum(len(plan.shards[shard]) for shard in shards)
    jobs = ((scratch, shard, plan.items(shard), work, plan.label_names, done) for shard in shards)
    waiting: set[Future[None]] = set()
    try:
        with bar(work.doing, "{task.fields[speed]}/s") as progress:
            task = progress.add_task("", total=total, completed=before, speed=f"- {work.kind}")
            while True:  # read the plan only as far ahead as the workers need
                waiting |= {pool.submit(_write, *job) for job in islice(jobs, 2 * workers - len(waiting))}
                if not waiting:
                    break
                ended, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                for shard in ended:
                    shard.result()
                if count.value:
                    speed = count.value / (time.monotonic() - started)
                    text = f"{speed:,.0f} {work.kind}" if speed >= 100 else f"{speed:.3g} {work.kind}"
                    progress.update(task, completed=before + count.value, speed=text)
                    if not warned and count.value >= TRIED and refused.value > MOST * count.value:
                        warned = True
                        logger.warning(
                            "%d of the first %d inputs are refused, the last one because: %s. Ctrl-C stops; "
                            "`shard plan` tries a sample",
                            refused.value, count.value, reason.value.decode(errors="ignore"),
                        )  # fmt: skip
    except (BrokenProcessPool, MemoryError) as error:
        raise UserError(
            "a worker process died (see above; else it ran out of memory); finished shards are kept: run the same "
            "command again, with fewer workers if memory was short"
        ) from error
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _write(scratch: Path, name: str, items: list[Any], work: Conversion, labels: tuple[str, ...], done: Done) -> None:
    part = scratch / name
    try:
        if shard := write_shard(part, items, work, labels):
            done(name, part, shard)
    finally:
        part.unlink(missing_ok=True)  # free the space if the disk is full


def write_shard(part: Path, items: list[Any], work: Conversion, label_names: tuple[str, ...]) -> WrittenShard | None:
    """Write one shard to ``part``, skipping unusable items. None if stopped early."""
    rows, rejected, noted = [], [], []
    with part.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for item in items:
            if _worker and _worker.stop.is_set():
                return None
            for made in work.make(item):
                if isinstance(made, Refused):
                    rejected.append(made._asdict())
                    if _worker:
                        with _worker.refused.get_lock():
                            _worker.refused.value += 1
                            _worker.reason.value = made.reason.encode()[: REASON - 1]
                elif isinstance(made, Noted):
                    noted.append(made.what)
                else:
                    rows.append(add_to_tar(tar, made, label_names) | {"shard": part.name})
            if _worker:
                with _worker.count.get_lock():
                    _worker.count.value += 1
    if work.mixed:
        rows.sort(key=itemgetter("xxh3", "key"))
    with part.open("rb") as written:
        return WrittenShard(part.stat().st_size, checksum(written), rows, rejected, noted)


class _Worker(NamedTuple):
    count: Any  # items done by all workers
    stop: Any  # set to stop early
    refused: Any  # by all workers, and the last one's reason
    reason: Any


_worker: _Worker | None = None  # in a worker process


def _start_worker(*shared: Any) -> None:
    global _worker
    _worker = _Worker(*shared)
