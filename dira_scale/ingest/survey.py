"""``shard plan``: what a conversion would find, make and take, before hours are spent on it."""

import io
import math
import pickle
import random
import sqlite3
import statistics
import tarfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import xxhash
from rich.console import Console

from dira_scale.data.tar import add_to_tar
from dira_scale.errors import UserError
from dira_scale.ingest.convert import counted, hasher_of, most_common, planned_from
from dira_scale.ingest.plan import Item, ShardPlan
from dira_scale.ingest.recipe import Recipe
from dira_scale.ingest.sample import QuarantinedError, make_sample
from dira_scale.ingest.sources.base import Input, SourceRecord
from dira_scale.machine.workers import worker_pool

EDGE = 4096  # bytes of both ends of a file by which copies are told


class Trial(NamedTuple):
    """What became of one sampled input."""

    seconds: float
    size: int  # bytes in the tar
    shape: tuple[int, ...]  # as stored
    rejected: str


@dataclass
class Survey:
    """What is known before anything is converted."""

    kinds: Counter[str] = field(default_factory=Counter)  # inputs
    size: int = 0  # bytes of them
    samples: Counter[str] = field(default_factory=Counter)  # by split
    patients: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)  # by reason, when they were listed
    nobody: int = 0  # neither patient nor study is known
    masks: int = 0
    copies: int = 0
    absent_masks: int = 0
    gaps: list[int] = field(default_factory=list)  # slices missing, of each series that lacks some
    trials: list[Trial] = field(default_factory=list)


def survey(planned: ShardPlan, recipe: Recipe, workers: int, count: int, seed: int = 0) -> Survey:
    """Go through the plan, look for copies, and convert ``count`` inputs drawn at random."""
    found, dice = Survey(), random.Random(seed)
    table = sqlite3.connect("")  # on the disk, without a name
    table.execute("CREATE TABLE file (size INT, record BLOB)")
    table.execute("CREATE TABLE person (split TEXT, patient TEXT, UNIQUE (split, patient) ON CONFLICT IGNORE)")
    drawn: list[Item] = []
    for item in planned:
        record = item.record
        found.kinds[_kind(record)] += 1
        found.size += record.size or 0
        if record.rejected is not None:
            found.rejected[record.rejected] += 1
            continue
        found.samples[item.split] += 1
        found.nobody += not (record.patient or record.study)
        found.masks += record.mask is not None
        found.gaps += [record.missing] if record.missing else []
        table.execute("INSERT INTO person VALUES (?, ?)", [item.split, item.patient])
        table.execute("INSERT INTO file VALUES (?, ?)", [record.size, pickle.dumps(record)])
        seen = found.samples.total()
        if len(drawn) < count:
            drawn.append(item)
        elif (place := dice.randrange(seen)) < count:
            drawn[place] = item
    found.patients.update(dict(table.execute("SELECT split, count(*) FROM person GROUP BY split")))
    _look(table, found, workers)
    with worker_pool(workers, __name__) as pool:
        list(pool.map(_warm, range(workers)))
        found.trials = list(pool.map(_try, drawn, repeat(recipe), repeat(planned.label_names)))
    return found


def _kind(record: SourceRecord) -> str:
    if isinstance(record.image, Input):
        return type(record.image).__name__.lower()
    return "".join(record.image.suffixes[-2:]).lower() if record.image.suffix == ".gz" else record.image.suffix.lower()


def _look(table: sqlite3.Connection, found: Survey, workers: int) -> None:
    """Copies (of one size, and alike at both ends) and masks that are not there; files of this machine only."""
    table.execute("CREATE INDEX file_size ON file (size)")
    table.execute("CREATE TABLE mark (size INT, mark TEXT)")
    rows = table.execute("SELECT size, count(*) OVER (PARTITION BY size), record FROM file")
    with ThreadPoolExecutor(4 * workers) as pool:
        while chunk := rows.fetchmany(1024):
            marks = pool.map(_mark, [pickle.loads(record) for *_, record in chunk], [same > 1 for _, same, _ in chunk])
            for (size, *_), (mark, absent) in zip(chunk, marks, strict=True):
                found.absent_masks += absent
                if mark:
                    table.execute("INSERT INTO mark VALUES (?, ?)", [size, mark])
    query = "SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM mark GROUP BY size, mark)"
    ((found.copies,),) = table.execute(query)


def _mark(record: SourceRecord, alike: bool) -> tuple[str, bool]:
    absent = isinstance(record.mask, Path) and not record.mask.exists()
    if not alike or not isinstance(record.image, Path):  # what is more or less than a file shares its file
        return "", absent
    with suppress(OSError), record.image.open("rb") as file:  # the conversion will tell
        first = file.read(EDGE)
        file.seek(max(0, (record.size or 0) - EDGE))
        return xxhash.xxh3_64_hexdigest(first + file.read(EDGE)), absent
    return "", absent


def _warm(_: int) -> None:
    time.sleep(0.2)  # so that each process gets one, and has imported all before it is timed


def _try(item: Item, recipe: Recipe, labels: tuple[str, ...]) -> Trial:
    started = time.monotonic()
    try:
        sample = make_sample(item, recipe)
    except QuarantinedError as rejection:
        return Trial(time.monotonic() - started, 0, (), f"{rejection.stage}: {rejection.reason}")
    except OSError as error:
        return Trial(time.monotonic() - started, 0, (), f"cannot be read now ({error.strerror})")
    with tarfile.open(fileobj=io.BytesIO(), mode="w", format=tarfile.USTAR_FORMAT) as tar:
        row = add_to_tar(tar, sample, labels)
        size = tar.offset
    shape = (row["depth"], row["height"], row["width"]) if row["affine"] else (row["height"], row["width"])
    return Trial(time.monotonic() - started, size, shape, "")


def survey_and_tell(config: Mapping[str, Any], workers: int, key_file: str | None, count: int) -> Survey:
    """List, look, try, and print what was found. Raises UserError."""
    if not isinstance(count, int) or count < 1:
        raise UserError(f"sample={count}: it must be a whole number of at least 1")
    recipe = Recipe.from_config(config)
    hasher, _ = hasher_of(recipe, key_file)
    started = time.monotonic()
    planned = planned_from(recipe, hasher, workers)
    listing = time.monotonic() - started
    found = survey(planned, recipe, workers, count)
    Console(soft_wrap=True, highlight=False).print("\n".join(_report(found, planned, recipe, workers, listing)))
    return found


def _report(found: Survey, planned: ShardPlan, recipe: Recipe, workers: int, listing: float) -> list[str]:
    kinds = ", ".join(
        counted(count, kind) if kind.isalpha() else f"{count:,} {kind or 'without an ending'}"
        for kind, count in found.kinds.most_common()
    )
    lines = [f"inputs    {len(planned):,} ({kinds}), {_bytes(found.size)}; listed in {_time(listing)}"]
    for split, count in found.samples.items():
        lines.append(f"split     {split}: {counted(count, 'input')} of {counted(found.patients[split], 'patient')}")
    lines += [f"odd       {line}" for line in _odd(found, recipe)] or ["odd       nothing"]
    good = [trial for trial in found.trials if not trial.rejected]
    if good:
        total, tried = found.samples.total(), found.trials
        share = len(good) / len(tried)
        size = _estimate([trial.size for trial in tried], total)
        seconds = _estimate([trial.seconds for trial in tried], total)
        shapes = Counter(trial.shape for trial in good)
        stored = " x ".join(map(str, shapes.most_common(1)[0][0]))
        drawn = len(tried) < total
        within = f" ({_bytes(size[1])} to {_bytes(size[2])})" if drawn else ""
        between = f" ({_time(seconds[1] / workers)} to {_time(seconds[2] / workers)})" if drawn else ""
        others = f" and {counted(len(shapes) - 1, 'other size')}" if len(shapes) > 1 else ""
        basis = f"{counted(len(tried), 'input')} drawn at random; in brackets 95 % of what other draws would say"
        lines += [
            f"stored    {recipe.codec}, {stored}{others}",
            f"expected  {counted(round(total * share), 'sample')} in {counted(len(planned.shards), 'shard')}",
            f"          {_bytes(size[0])}{within}",
            f"          {_time(seconds[0] / workers)}{between} with workers={workers}, after listing",
            f"          from {basis if drawn else 'all inputs, which were tried'}",
        ]
    return lines


def _odd(found: Survey, recipe: Recipe) -> list[str]:
    lines = [f"{count:,} refused when listed: {reason}" for reason, count in most_common(found.rejected)]
    if found.copies:
        copies = "1 copy" if found.copies == 1 else f"{found.copies:,} copies"
        lines.append(f"{copies} of other inputs (of one size, and the same first and last {EDGE} bytes)")
    if found.nobody and found.nobody < found.samples.total():
        lines.append(f"{found.nobody:,} without patient and study: each counts as a patient of its own")
    if 0 < found.masks < found.samples.total():
        lines.append(f"{found.samples.total() - found.masks:,} without a mask, {found.masks:,} with one")
    if found.absent_masks:
        lines.append(f"not there: {counted(found.absent_masks, 'mask')} that the source names")
    if found.gaps:
        taken = "to be interpolated" if recipe.volume.irregular == "resample" else "to be refused"
        lines.append(f"{counted(sum(found.gaps), 'slice')} missing in {counted(len(found.gaps), 'volume')}, {taken} "
                     f"(recipe.volume.irregular={recipe.volume.irregular})")  # fmt: skip
    refused = Counter(trial.rejected for trial in found.trials if trial.rejected)
    lines += [f"{count} of {len(found.trials)} tried are refused, {why}" for why, count in most_common(refused)]
    return lines


def _estimate(values: Sequence[float], count: int) -> tuple[float, float, float]:
    """The sum over ``count`` from a sample of ``values``, and its 95 % interval (normal)."""
    mean = statistics.fmean(values)
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else mean
    error *= math.sqrt(max(0.0, 1 - len(values) / count))  # what was tried is known
    return count * mean, count * max(0.0, mean - 1.96 * error), count * (mean + 1.96 * error)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
