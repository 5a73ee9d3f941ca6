"""Rows of boxes, the accuracies that are computed from them, the files of both, and a sweep's runs in one table."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dira_scale.base.storage.atomic import write_atomic
from dira_scale.dataset.metrics.figure import MEAN, Figure
from dira_scale.dataset.metrics.statistics.bootstrap import ABOUT, bootstrap
from dira_scale.dataset.metrics.statistics.weighted import Statistic, Statistics, average, weighted_mean
from dira_scale.judge.evaluation.comparison import Compared, Evaluated, Finished, compare_runs, figures_of, finished_by
from dira_scale.localize.cases import SIDES
from dira_scale.train.runs.files import read_yaml

FILE, BOXES, CONFIG = "results.json", "boxes.parquet", "config.yaml"
ACCURACY = "accuracy"
INTERVAL = {**ABOUT, "resamples": 2000}


@dataclass(frozen=True)
class LocatedBox:
    """A ``box`` [2 n] of the dataset, starts, then extents, in pixels of the stored image; the ``probability`` of its
    label; the number of predicted ``regions``, of all intensities; the largest ``iou`` of a predicted box with it, the
    ``intensity`` of that box's region, and that box; None where no predicted box overlaps."""

    key: str
    patient: str
    label: str
    box: Sequence[float]
    probability: float
    regions: int
    iou: float
    intensity: float | None
    predicted: Sequence[float] | None


def write_boxes(path: Path, rows: Sequence[LocatedBox]) -> None:
    """Columns of ``LocatedBox``; a box, and a predicted one, as ``y``, ``x``, ``h``, ``w`` (``z``, ``d``)."""
    sides = SIDES[len(rows[0].box) // 2]
    predicted = [f"predicted_{side}" for side in sides]
    names = *sides, *predicted
    kinds = dict.fromkeys(("key", "patient", "label"), pa.string())
    kinds |= dict.fromkeys((*sides, "probability", "regions", "iou", "intensity", *predicted), pa.float64())
    each = [vars(row) | dict(zip(names, (*row.box, *(row.predicted or ())), strict=False)) for row in rows]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(each, pa.schema(kinds | {"regions": pa.int64()})), file, compression="zstd")
    write_atomic(path, file.getvalue())


def accuracy(labels: Sequence[str], ious: Sequence[float], threshold: float) -> Statistic:
    """The share of N boxes whose predicted one has at least this intersection over union: its mean over labels."""
    hits, of = (np.array(ious, float) >= threshold).astype(float), np.array(labels)
    return average([weighted_mean(np.where(of == label, hits, np.nan)) for label in dict.fromkeys(labels)])


def figures(rows: Sequence[LocatedBox], thresholds: Sequence[float]) -> list[Figure]:
    """Each accuracy with its interval over patients, if there are two. ``n``: a label's boxes; of the mean, labels."""
    labels = [*dict.fromkeys(row.label for row in rows)]
    made = []
    for label in [*labels, MEAN]:
        kept = [row for row in rows if label in (MEAN, row.label)]
        boxes = None if label == MEAN else len(kept)
        for threshold in thresholds:
            statistic = accuracy([row.label for row in kept], [row.iou for row in kept], threshold)
            found = bootstrap(statistic, [row.patient for row in kept], INTERVAL["resamples"], INTERVAL["level"])
            ends = None if np.isnan(found.low) else (found.low, found.high)
            about = found.value, boxes or len(labels), 0, found.patients, boxes, f"IoU >= {threshold:g}"
            made.append(Figure(ACCURACY, f"{label}/{threshold:g}", *about, interval=ends, share=True))
    return made


def cells(figures: Sequence[Figure]) -> list[list[str]]:
    """A row for each label, the mean last, with a column for each threshold: per cent, header first."""
    rows: dict[str, list[str]] = {}
    for figure in figures:
        label = figure.name.rpartition("/")[0]
        rows.setdefault(label, [label, str(figure.positives or "-")]).append(f"{100 * figure.value:.2f}")
    thresholds = dict.fromkeys(figure.name.rpartition("/")[2] for figure in figures)
    return [["label", "boxes", *(f">= {threshold}" for threshold in thresholds)], *rows.values()]


def localizing(output: Path) -> tuple[Iterator[tuple[str, float]], Mapping[str, Any], set[str]]:
    """Return the figures of a finished folder for sweeps, as ``accuracy/LABEL/THRESHOLD``, its configuration, and the
    names of the means over labels."""
    values = {f"{figure.metric}/{figure.name}": figure.value for figure in figures_of(output).values()}
    return iter(values.items()), read_yaml(output / CONFIG), {name for name in values if f"/{MEAN}/" in name}


def compared(runs: Sequence[tuple[Mapping[str, Any], Path]]) -> Compared:
    """The table of ``runs``: of each what varies and its folder. The means over labels have intervals over patients, of
    whom several boxes count together, and tests.

    Raises UserError, OSError or KeyError for a missing or damaged file, ValueError for a setting's runs of other boxes.
    """
    return compare_runs([finished_by(varied, output) for varied, output in runs], _evaluated)


def _evaluated(run: Finished) -> Evaluated:
    figures = dict(sorted(figures_of(run.output).items(), key=lambda item: not item[0][1].startswith(f"{MEAN}/")))
    columns = pq.read_table(run.output / BOXES).to_pydict()
    keys = [f"{key} {label}" for key, label in zip(columns["key"], columns["label"], strict=True)]
    thresholds = {key: float(key[1].rpartition("/")[2]) for key in figures if key[1].startswith(f"{MEAN}/")}
    means = {key: accuracy(columns["label"], columns["iou"], each) for key, each in thresholds.items()}
    return Evaluated(figures, Statistics(means, keys, columns["patient"]))
