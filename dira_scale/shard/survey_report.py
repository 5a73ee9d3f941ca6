"""The results of a survey, and the report."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dira_scale.archive.outcome import most_common
from dira_scale.archive.plan import ShardPlan
from dira_scale.archive.recipe import Recipe
from dira_scale.errors import counted

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
    """What is known before the conversion."""

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


def report(result: Survey, planned: ShardPlan, recipe: Recipe, workers: int, listing: float) -> list[str]:
    """The report's lines; ``listing`` is its time in seconds."""
    kinds = ", ".join(
        counted(count, kind) if kind.isalpha() else f"{count:,} {kind or 'without an ending'}"
        for kind, count in result.kinds.most_common()
    )
    lines = [f"inputs    {len(planned):,} ({kinds}), {_bytes(result.size)}; listed in {_time(listing)}"]
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
        within = f" ({_bytes(size[1])} to {_bytes(size[2])})" if drawn else ""
        between = f" ({_time(seconds[1] / workers)} to {_time(seconds[2] / workers)})" if drawn else ""
        others = f" and {counted(len(shapes) - 1, 'other size')}" if len(shapes) > 1 else ""
        basis = f"{counted(len(tried), 'input')} drawn at random; in brackets the 95 % interval"
        lines += [
            f"stored    {recipe.codec}, {stored}{others}",
            f"expected  {counted(round(total * samples), 'sample')} in {counted(len(planned.shards), 'shard')}",
            f"          {_bytes(size[0])}{within}",
            f"          {_time(seconds[0] / workers)}{between} with workers={workers}, after listing",
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
