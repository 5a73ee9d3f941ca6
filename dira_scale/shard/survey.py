"""``shard plan``: what a conversion would find and need, before hours are spent on it."""

import io
import pickle
import random
import sqlite3
import tarfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import Any

import xxhash

from dira_scale.archive.naming import with_modality
from dira_scale.archive.plan import Item, ShardPlan, hasher_of, planned_from
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.slices import Noted, Refused, make_samples
from dira_scale.archive.sources.base import Input, SourceRecord
from dira_scale.data.tar import add_to_tar
from dira_scale.errors import UserError
from dira_scale.machine.console import Console
from dira_scale.machine.workers import worker_pool
from dira_scale.shard.survey_report import EDGE, Survey, Trial, report


def survey(planned: ShardPlan, recipe: Recipe, workers: int, count: int, seed: int = 0) -> Survey:
    """Survey the plan, look for copies, and try to convert ``count`` random inputs."""
    result, dice = Survey(), random.Random(seed)
    table = sqlite3.connect("")  # an unnamed file on disk
    table.execute("CREATE TABLE file (size INT, record BLOB)")
    table.execute("CREATE TABLE person (split TEXT, patient TEXT, UNIQUE (split, patient) ON CONFLICT IGNORE)")
    drawn: list[Item] = []
    for item in planned:
        record = item.record
        result.kinds[_kind(record)] += 1
        result.size += record.size or 0
        if record.rejected is not None:
            result.rejected[record.rejected] += 1
            continue
        result.samples[item.split] += 1
        result.unknown_patients += not (record.patient or record.study)
        result.masks += record.mask is not None
        result.gaps += [record.missing] if record.missing else []
        table.execute("INSERT INTO person VALUES (?, ?)", [item.split, item.patient])
        table.execute("INSERT INTO file VALUES (?, ?)", [record.size, pickle.dumps(record)])
        seen = result.samples.total()
        if len(drawn) < count:
            drawn.append(item)
        elif (index := dice.randrange(seen)) < count:
            drawn[index] = item
    result.patients.update(dict(table.execute("SELECT split, count(*) FROM person GROUP BY split")))
    ((result.cut_patients,),) = table.execute("SELECT count(*) - count(DISTINCT patient) FROM person")
    _look(table, result, workers)
    with worker_pool(workers, __name__) as pool:
        list(pool.map(_warm, range(workers)))
        result.trials = list(pool.map(_try, drawn, repeat(recipe), repeat(planned.label_names)))
    return result


def _kind(record: SourceRecord) -> str:
    if isinstance(record.image, Input):
        return type(record.image).__name__.lower()
    return "".join(record.image.suffixes[-2:]).lower() if record.image.suffix == ".gz" else record.image.suffix.lower()


def _look(table: sqlite3.Connection, result: Survey, workers: int) -> None:
    """Count copies (same size, same first and last bytes) and missing masks; local files only."""
    table.execute("CREATE INDEX file_size ON file (size)")
    table.execute("CREATE TABLE mark (size INT, mark TEXT)")
    rows = table.execute("SELECT size, count(*) OVER (PARTITION BY size), record FROM file")
    with ThreadPoolExecutor(4 * workers) as pool:
        while chunk := rows.fetchmany(1024):
            marks = pool.map(_mark, [pickle.loads(record) for *_, record in chunk], [same > 1 for _, same, _ in chunk])
            for (size, *_), (mark, absent) in zip(chunk, marks, strict=True):
                result.absent_masks += absent
                if mark:
                    table.execute("INSERT INTO mark VALUES (?, ?)", [size, mark])
    query = "SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM mark GROUP BY size, mark)"
    ((result.copies,),) = table.execute(query)


def _mark(record: SourceRecord, alike: bool) -> tuple[str, bool]:
    absent = isinstance(record.mask, Path) and not record.mask.exists()
    if not alike or not isinstance(record.image, Path):  # other inputs may share files
        return "", absent
    with suppress(OSError), record.image.open("rb") as file:  # the conversion will report it
        first = file.read(EDGE)
        file.seek(max(0, (record.size or 0) - EDGE))
        return xxhash.xxh3_64_hexdigest(first + file.read(EDGE)), absent
    return "", absent


def _warm(_: int) -> None:
    time.sleep(0.2)  # so that every process gets a call, and has imported everything before it is timed


def _try(item: Item, recipe: Recipe, labels: tuple[str, ...]) -> Trial:
    started = time.monotonic()
    count, rejected, odd = 0, "", ""
    shape: tuple[int, ...] = ()
    with tarfile.open(fileobj=io.BytesIO(), mode="w", format=tarfile.USTAR_FORMAT) as tar:
        try:
            for made in make_samples(item, recipe):
                if isinstance(made, Refused):
                    rejected = f"{made.stage}: {made.reason}"
                    continue
                if isinstance(made, Noted):
                    odd = made.what
                    continue
                row, count = add_to_tar(tar, made, labels), count + 1
                shape = (row["depth"], row["height"], row["width"]) if row["affine"] else (row["height"], row["width"])
        except OSError as error:
            rejected = f"cannot be read now ({error.strerror})"
        size = tar.offset
    return Trial(time.monotonic() - started, size, count, shape, "" if count else rejected, odd)


def survey_and_print(config: Mapping[str, Any], workers: int, key_file: str | None, count: int) -> Survey:
    """List, inspect, try, and print the report. Raises UserError."""
    if not isinstance(count, int) or count < 1:
        raise UserError(f"sample={count}: must be an integer of at least 1")
    recipe = Recipe.from_config(config)
    hasher, _ = hasher_of(recipe, key_file)
    started = time.monotonic()
    planned = planned_from(recipe, hasher, workers)
    recipe = Recipe.from_config(with_modality(config, planned))
    listing = time.monotonic() - started
    result = survey(planned, recipe, workers, count)
    Console(soft_wrap=True, highlight=False).print("\n".join(report(result, planned, recipe, workers, listing)))
    return result
