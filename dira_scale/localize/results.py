"""Rows of boxes, the accuracies that are computed from them, the files of both, and a sweep's runs in one table."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dira_scale.base.storage.atomic import write_atomic
from dira_scale.dataset.metrics.figure import MEAN, Figure, Key
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


def write_boxes(path: Path, rows: Sequence[LocatedBox]) -> None:
    """Columns of ``LocatedBox``; a box, and a predicted one, as ``y``, ``x``, ``h``, ``w`` (``z``, ``d``)."""
    sides = SIDES[len(rows[0].box) // 2]
    predicted = [f"predicted_{side}" for side in sides]
    numbers = [*sides, "probability", "regions", "iou", "intensity", *predicted]
    columns = [(name, pa.string()) for name in ("key", "patient", "label")]
    columns += [(name, pa.int64() if name == "regions" else pa.float64()) for name in numbers]
    nowhere = [None] * len(sides)
    boxes = [zip([*sides, *predicted], [*row.box, *(row.predicted or nowhere)], strict=True) for row in rows]
    each = [asdict(row) | dict(box) for row, box in zip(rows, boxes, strict=True)]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(each, pa.schema(columns)), file, compression="zstd")
    write_atomic(path, file.getvalue())


def accuracies(labels: Sequence[str], ious: Sequence[float], thresholds: Sequence[float]) -> dict[str, Statistic]:
    """Return the accuracy of each label at each threshold, and their mean, by ``LABEL/THRESHOLD`` and
    ``mean/THRESHOLD``: statistics of N boxes, each with its label and the largest intersection over union of a
    predicted one."""
    made: dict[str, Statistic] = {}
    for threshold in thresholds:
        hits = (np.array(ious, float) >= threshold).astype(float)
        each = {
            f"{label}/{threshold:g}": weighted_mean(np.where(np.array(labels) == label, hits, np.nan))
            for label in dict.fromkeys(labels)
        }
        made |= {**each, f"{MEAN}/{threshold:g}": average([*each.values()])}
    return made


def figures(rows: Sequence[LocatedBox], thresholds: Sequence[float]) -> list[Figure]:
    """Return each accuracy with its interval over patients, of whom there must be two. ``n``: the boxes of a label; of
    the mean, the labels."""
    labels = [*dict.fromkeys(row.label for row in rows)]
    made = []
    for label in [*labels, MEAN]:
        kept = [row for row in rows if label in (MEAN, row.label)]
        statistics = accuracies([row.label for row in kept], [row.iou for row in kept], thresholds)
        boxes = None if label == MEAN else len(kept)
        for threshold in thresholds:
            name, patients = f"{label}/{threshold:g}", [row.patient for row in kept]
            found = bootstrap(statistics[name], patients, INTERVAL["resamples"], INTERVAL["level"])
            ends = None if np.isnan(found.low) else (found.low, found.high)
            about = found.value, boxes or len(labels), 0, found.patients, boxes, f"IoU >= {threshold:g}"
            made.append(Figure(ACCURACY, name, *about, interval=ends, share=True))
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

    Raises:
        UserError, OSError, KeyError: a file of a run, or of the run that it read, is missing or damaged.
        ValueError: a setting's runs are of other boxes; a seed is there twice.
    """
    return compare_runs([finished_by(varied, output) for varied, output in runs], _evaluated)


def _evaluated(run: Finished) -> Evaluated:
    figures = dict(sorted(figures_of(run.output).items(), key=lambda item: not item[0][1].startswith(f"{MEAN}/")))
    thresholds = [float(name.removeprefix(f"{MEAN}/")) for _, name in figures if name.startswith(f"{MEAN}/")]
    columns = pq.read_table(run.output / BOXES).to_pydict()
    keys = [f"{key} {label}" for key, label in zip(columns["key"], columns["label"], strict=True)]
    of = accuracies(columns["label"], columns["iou"], thresholds)
    means: dict[Key, Statistic] = {(ACCURACY, name): of[name] for _, name in figures if name.startswith(f"{MEAN}/")}
    return Evaluated(figures, Statistics(means, keys, columns["patient"]))
