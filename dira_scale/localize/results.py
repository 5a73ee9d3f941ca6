"""Rows of boxes, the accuracies that are computed from them, the files of both, and a sweep's runs in one table."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dira_scale.evaluation.comparison import Compared, Evaluated, Finished, compare_runs, figures_of, finished_by
from dira_scale.localize.cases import SIDES
from dira_scale.metrics.figure import MEAN, Figure, Key
from dira_scale.metrics.statistics.bootstrap import bootstrap
from dira_scale.metrics.statistics.intervals import ABOUT
from dira_scale.metrics.statistics.of_cases import Statistics
from dira_scale.metrics.statistics.weighted import Statistic, average, weighted_mean
from dira_scale.runs.files import read_yaml
from dira_scale.storage.atomic import write_atomic

FILE, BOXES, CONFIG = "results.json", "boxes.parquet", "config.yaml"
ACCURACY = "accuracy"
INTERVAL = {**ABOUT, "resamples": 2000}


@dataclass(frozen=True)
class Row:
    """A box of the dataset, and what was predicted for its label.

    Attributes:
        box: [2 n], starts, then extents, in pixels of the stored image.
        probability: of the label, by the network.
        regions: the predicted boxes, of all intensities.
        iou: the largest intersection over union of a predicted box with ``box``; 0 without one.
        intensity: of the region whose box it is; None: no predicted box overlaps.
        predicted: that box [2 n]; None likewise.
    """

    key: str
    patient: str
    label: str
    box: Sequence[float]
    probability: float
    regions: int
    iou: float
    intensity: float | None
    predicted: Sequence[float] | None


def write_boxes(path: Path, rows: Sequence[Row]) -> None:
    """Columns of ``Row``; boxes as ``y``, ``x``, ``h``, ``w`` (``z``, ``d``), those of ``predicted`` likewise."""
    sides = SIDES[len(rows[0].box) // 2]
    words = {name: [getattr(row, name) for row in rows] for name in ("key", "patient", "label")}
    true = {side: [row.box[i] for row in rows] for i, side in enumerate(sides)}
    numbers = {name: [getattr(row, name) for row in rows] for name in ("probability", "regions", "iou", "intensity")}
    predicted = {
        f"predicted_{side}": pa.array([row.predicted and row.predicted[i] for row in rows], pa.float64())
        for i, side in enumerate(sides)
    }
    numbers["intensity"] = pa.array(numbers["intensity"], pa.float64())
    file = io.BytesIO()
    pq.write_table(pa.table(words | true | numbers | predicted), file, compression="zstd")
    write_atomic(path, file.getvalue())


def accuracies(labels: Sequence[str], ious: Sequence[float], thresholds: Sequence[float]) -> dict[str, Statistic]:
    """Return the accuracy of each label at each threshold, and their mean, by ``LABEL/THRESHOLD`` and
    ``mean/THRESHOLD``: statistics of N boxes, each with its label and the largest intersection over union of a
    predicted one."""
    of_boxes, shares = np.array(labels), np.array(ious, float)
    made: dict[str, Statistic] = {}
    for threshold in thresholds:
        hits = (shares >= threshold).astype(float)
        each = {
            f"{label}/{threshold:g}": weighted_mean(np.where(of_boxes == label, hits, np.nan))
            for label in dict.fromkeys(labels)
        }
        made |= {**each, f"{MEAN}/{threshold:g}": average([*each.values()])}
    return made


def figures(rows: Sequence[Row], thresholds: Sequence[float]) -> list[Figure]:
    """Return each accuracy with its interval over patients, of whom there must be two. ``n``: the boxes of a label; of
    the mean, the labels."""
    made = []
    for label in [*dict.fromkeys(row.label for row in rows), MEAN]:
        kept = [row for row in rows if label in (MEAN, row.label)]
        names = [f"{label}/{threshold:g}" for threshold in thresholds]
        statistics = accuracies([row.label for row in kept], [row.iou for row in kept], thresholds)
        boxes = None if label == MEAN else len(kept)
        n = boxes or len({row.label for row in kept})
        for name, threshold in zip(names, thresholds, strict=True):
            found = bootstrap(statistics[name], [row.patient for row in kept], INTERVAL["resamples"], INTERVAL["level"])
            ends = None if np.isnan(found.low) else (found.low, found.high)
            about = found.value, n, 0, found.patients, boxes, f"IoU >= {threshold:g}"
            made.append(Figure(ACCURACY, name, *about, interval=ends))
    return made


def cells(figures: Sequence[Figure]) -> list[list[str]]:
    """A row for each label, the mean last, with a column for each threshold: per cent, header first."""
    rows: dict[str, list[str]] = {}
    head = ["label", "boxes"]
    for figure in figures:
        label, _, threshold = figure.name.rpartition("/")
        if label not in rows:
            rows[label] = [label, str(figure.positives or "-")]
        rows[label].append(f"{100 * figure.value:.2f}")
        if f">= {threshold}" not in head:
            head.append(f">= {threshold}")
    return [head, *rows.values()]


def localizing(output: Path) -> tuple[Iterator[tuple[str, float]], Mapping[str, Any]]:
    """Return the figures of a finished folder for sweeps, as ``accuracy/LABEL/THRESHOLD``, and its configuration."""
    pairs = ((f"{figure.metric}/{figure.name}", figure.value) for figure in figures_of(output).values())
    return pairs, read_yaml(output / CONFIG)


def compared(runs: Sequence[tuple[Mapping[str, Any], Path]]) -> Compared:
    """The table of ``runs``: of each what varies and its folder. The means over labels have intervals over patients, of
    whom several boxes count together, and tests.

    Raises:
        UserError, OSError, KeyError: a file of a run, or of the run that it read, is missing or damaged.
        ValueError: a setting's runs are of other boxes; a seed is there twice.
    """
    return compare_runs([finished_by(varied, output) for varied, output in runs], _evaluated)


def _evaluated(run: Finished) -> Evaluated:
    each = figures_of(run.output)
    figures = dict(sorted(each.items(), key=lambda item: not item[0][1].startswith(f"{MEAN}/")))  # means first
    thresholds = [float(name.rpartition("/")[2]) for _, name in figures if name.startswith(f"{MEAN}/")]
    columns = pq.read_table(run.output / BOXES).to_pydict()
    keys = [f"{key} {label}" for key, label in zip(columns["key"], columns["label"], strict=True)]
    statistics: dict[Key, Statistic] = {
        (ACCURACY, name): statistic
        for name, statistic in accuracies(columns["label"], columns["iou"], thresholds).items()
        if name.startswith(f"{MEAN}/")
    }
    return Evaluated(figures, Statistics(statistics, keys, columns["patient"]))
