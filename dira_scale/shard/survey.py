"""``shard plan``: what a conversion would find and need, before hours are spent on it."""

import io
import math
import random
import re
import statistics
import tarfile
import time
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from rich.filesize import decimal

from dira_scale.archive.outcome import most_common
from dira_scale.archive.plan import Item, ShardPlan, planned_from
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.slices import Noted, Refused, make_samples, with_modality
from dira_scale.archive.sources.base import SourceImage, SourceRecord
from dira_scale.base.errors import counted, duration
from dira_scale.base.machine.console import Console
from dira_scale.base.machine.workers import worker_pool
from dira_scale.dataset.manifest.tar import add_to_tar

EDGE = 4096  # bytes compared at both ends of a file to detect copies


class Trial(NamedTuple):
    """The conversion of one sampled input."""

    seconds: float
    size: int  # bytes in the tar
    samples: int  # 1, or the slices of a volume
    shape: tuple[int, ...]  # as stored
    rejected: str
    odd: str = ""


@dataclass
class Survey:
    """The facts about the inputs that are known before the conversion."""

    kinds: Counter[str] = field(default_factory=Counter)  # inputs
    size: int = 0  # bytes of the inputs
    samples: Counter[str] = field(default_factory=Counter)  # by split
    patients: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)  # when listed, by reason
    unknown_patients: int = 0  # neither patient nor study known
    cut_patients: int = 0  # in two splits, by published lists
    masks: int = 0
    copies: int = 0
    absent_masks: int = 0
    gaps: list[int] = field(default_factory=list)  # number of missing slices per incomplete series
    trials: list[Trial] = field(default_factory=list)


def survey_and_print(config: Mapping[str, Any], workers: int, key_file: str | None, count: int) -> Survey:
    """List, inspect, try, and print the report. Raises UserError."""
    recipe = Recipe.from_config(config)
    hasher, _ = recipe.hasher(key_file)
    started = time.monotonic()
    plan = planned_from(recipe.make_source(), recipe, hasher, workers)
    recipe = with_modality(recipe, plan)
    listing = time.monotonic() - started
    result = survey(plan, recipe, workers, count)
    Console(soft_wrap=True, highlight=False).print("\n".join(report(result, plan, recipe, workers, listing)))
    return result


def survey(plan: ShardPlan, recipe: Recipe, workers: int, count: int, seed: int = 0) -> Survey:
    """Survey the plan, look for copies, and try to convert ``count`` random inputs."""
    result, dice = Survey(), random.Random(seed)
    patients: dict[str, set[str]] = {}
    sizes = array("q")  # of all files, in the plan's order
    drawn: list[Item] = []
    for item in plan:
        record = item.record
        if isinstance(record.image, SourceImage):
            kind = re.sub("(?<=[a-z])(?=[A-Z])", " ", type(record.image).__name__).lower()  # such as "dicom frame"
        else:
            kind = "".join(record.image.suffixes[-2 if record.image.suffix == ".gz" else -1 :]).lower()
        result.kinds[kind] += 1
        result.size += record.size or 0
        if record.rejected is not None:
            result.rejected[record.rejected] += 1
            continue
        result.samples[item.split] += 1
        result.unknown_patients += not (record.patient or record.study)
        result.masks += record.mask is not None
        result.gaps += [record.missing] if record.missing else []
        patients.setdefault(item.split, set()).add(item.patient)
        sizes.append(record.size or 0)
        if len(drawn) < count:
            drawn.append(item)
        elif (index := dice.randrange(result.samples.total())) < count:
            drawn[index] = item
    result.patients.update({split: len(names) for split, names in patients.items()})
    result.cut_patients = sum(result.patients.values()) - len(set().union(*patients.values()))
    distinct, counts = np.unique(np.array(sizes), return_counts=True)
    shared = set(distinct[counts > 1].tolist())  # only files of one size can be copies
    accepted = (item.record for item in plan if item.record.rejected is None)
    ends = Counter[tuple[int | None, str]]()
    with ThreadPoolExecutor(4 * workers) as pool:
        while chunk := list(islice(accepted, 1024)):
            for record, (absent, hashed) in zip(chunk, pool.map(_look, chunk, repeat(shared)), strict=True):
                result.absent_masks += absent
                ends.update([(record.size, hashed)] if hashed else [])
    result.copies = ends.total() - len(ends)
    with worker_pool(workers, __name__) as pool:
        list(pool.map(_warm, range(workers)))
        result.trials = list(pool.map(_try, drawn, repeat(recipe), repeat(plan.label_names)))
    return result


def _look(record: SourceRecord, shared: set[int]) -> tuple[bool, str]:
    """Return, of local files, if the mask is missing, and a hash of both ends of an image of a ``shared`` size; empty
    if it cannot be read, which the conversion will report."""
    absent, hashed = isinstance(record.mask, Path) and not record.mask.exists(), ""
    if record.size in shared and isinstance(record.image, Path):
        with suppress(OSError), record.image.open("rb") as file:
            first = file.read(EDGE)
            file.seek(max(0, (record.size or 0) - EDGE))
            hashed = xxhash.xxh3_64_hexdigest(first + file.read(EDGE))
    return absent, hashed


def _warm(_: int) -> None:
    time.sleep(0.2)  # so that every process gets a call, and has imported everything before it is timed


def _try(item: Item, recipe: Recipe, labels: tuple[str, ...]) -> Trial:
    started = time.monotonic()
    count, rejected, odd = 0, "", ""
    shape: tuple[int, ...] = ()
    with tarfile.open(fileobj=io.BytesIO(), mode="w", format=tarfile.USTAR_FORMAT) as tar:
        try:
            for sample in make_samples(item, recipe):
                if isinstance(sample, Refused):
                    rejected = f"{sample.stage}: {sample.reason}"
                    continue
                if isinstance(sample, Noted):
                    odd = sample.what
                    continue
                row, count = add_to_tar(tar, sample, labels), count + 1
                colours = () if row["channels"] == 1 else (row["channels"],)
                sides = row["height"], row["width"]
                shape = (row["depth"], *sides) if row["affine"] else (*sides, *colours)
        except OSError as error:
            rejected = f"cannot be read now ({error.strerror})"
        size = tar.offset
    return Trial(time.monotonic() - started, size, count, shape, "" if count else rejected, odd)


def report(result: Survey, plan: ShardPlan, recipe: Recipe, workers: int, listing: float) -> list[str]:
    """The report's lines; ``listing`` is its time in seconds."""
    kinds = ", ".join(
        counted(count, kind) if kind.isalpha() else f"{count:,} {kind or 'without an ending'}"
        for kind, count in result.kinds.most_common()
    )
    lines = [f"inputs    {len(plan):,} ({kinds}), {decimal(result.size)}; listed in {duration(listing)}"]
    for split, count in result.samples.items():
        lines.append(f"split     {split}: {counted(count, 'input')} of {counted(result.patients[split], 'patient')}")
    lines += [f"odd       {line}" for line in _odd(result, recipe)] or ["odd       nothing"]
    good = [trial for trial in result.trials if not trial.rejected]
    if good:
        total, tried = result.samples.total(), result.trials
        samples = sum(trial.samples for trial in tried) / len(tried)
        size = _estimate([trial.size for trial in tried], total)
        seconds = _estimate([trial.seconds for trial in tried], total)
        shapes = Counter(trial.shape for trial in good)
        stored = " x ".join(map(str, shapes.most_common(1)[0][0]))
        drawn = len(tried) < total
        within = f" ({decimal(int(size[1]))} to {decimal(int(size[2]))})" if drawn else ""
        between = f" ({duration(seconds[1] / workers)} to {duration(seconds[2] / workers)})" if drawn else ""
        others = f" and {counted(len(shapes) - 1, 'other size')}" if len(shapes) > 1 else ""
        basis = f"{counted(len(tried), 'input')} drawn at random; in brackets the 95 % interval"
        lines += [
            f"stored    {recipe.codec}, {stored}{others}",
            f"expected  {counted(round(total * samples), 'sample')} in {counted(len(plan.shards), 'shard')}",
            f"          {decimal(int(size[0]))}{within}",
            f"          {duration(seconds[0] / workers)}{between} with workers={workers}, after listing",
            f"          from {basis if drawn else 'all inputs'}",
        ]
    return lines


def _odd(result: Survey, recipe: Recipe) -> list[str]:
    lines = [f"{count:,} rejected when listed: {reason}" for reason, count in most_common(result.rejected)]
    if result.copies:
        copies = "1 copy" if result.copies == 1 else f"{result.copies:,} copies"
        lines.append(f"{copies} of other inputs (of one size, and the same first and last {EDGE} bytes)")
    if result.unknown_patients and result.unknown_patients < result.samples.total():
        lines.append(f"{result.unknown_patients:,} without patient and study: each counts as its own patient")
    if result.cut_patients:
        lines.append(f"{counted(result.cut_patients, 'patient')} in two splits, as the lists of recipe.lists have it")
    if 0 < result.masks < result.samples.total():
        lines.append(f"{result.samples.total() - result.masks:,} without a mask, {result.masks:,} with one")
    if result.absent_masks:
        lines.append(f"missing: {counted(result.absent_masks, 'mask')} that the source names")
    if result.gaps:
        taken = "to be interpolated" if recipe.volume.irregular == "resample" else "to be rejected"
        lines.append(f"{counted(sum(result.gaps), 'slice')} missing in {counted(len(result.gaps), 'volume')}, {taken} "
                     f"(recipe.volume.irregular={recipe.volume.irregular})")  # fmt: skip
    refused = Counter(trial.rejected for trial in result.trials if trial.rejected)
    tried = len(result.trials)
    lines += [
        f"{count} of {tried} tried ({count / tried:.0%}) are rejected, {why}" for why, count in most_common(refused)
    ]
    odd = Counter(trial.odd for trial in result.trials if trial.odd)
    lines += [f"{count} of {len(result.trials)} tried: {what}" for what, count in odd.items()]
    return lines


def _estimate(values: Sequence[float], count: int) -> tuple[float, float, float]:
    """The sum over ``count`` from a sample of ``values``, and its 95 % interval (normal)."""
    mean = statistics.fmean(values)
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else mean
    error *= math.sqrt(max(0.0, 1 - len(values) / count))  # finite population: the tried ones are known
    return count * mean, count * max(0.0, mean - 1.96 * error), count * (mean + 1.96 * error)
