"""Plots of a sweep: figures by share of the labels, ROC curves, reliability; the pictures of its runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from sklearn.metrics import roc_curve

from dira_scale.base.storage.owned import is_inside
from dira_scale.dataset.metrics.cases import LabelCase, label_arrays, read_cases
from dira_scale.judge.pages.figure import LABEL, LEVEL, LINES, svg
from dira_scale.judge.pages.tables.cells import Table
from dira_scale.judge.pages.tables.read import SweepContent, SweepRun
from dira_scale.judge.pages.template import data_url

STYLES, CSS_STYLES = ("-", "--", ":"), ("solid", "dashed", "dotted")
MOST = len(LINES) * len(STYLES)  # lines of a plot
LABELS = 4  # with curves, of a phase
BINS = 10  # of a reliability curve
PICTURES = 3_000_000  # bytes of a page


@dataclass(frozen=True)
class Plot:
    """``drawing``: SVG. ``keys``: name, colour (CSS) and style of each line."""

    title: str
    drawing: str
    keys: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Picture:
    """``address``: a data URL, empty if the page would be too large."""

    title: str
    address: str


def of_fractions(table: Table) -> Plot | None:
    """The table's figures over shares of the labels, with their spread; None of a single share, or without spreads."""
    columns = [column for column in table.columns if column in table.fractions]
    shares = sorted({table.fractions[column] for column in columns})
    spread = {row for (row, column), cell in table.cells.items() if column in columns and cell.sd is not None}
    rows = [row for row in table.rows if row in spread][:MOST]
    if len(shares) < 2 or not rows:
        return None

    def draw(axes: Axes) -> None:
        for number, row in enumerate(rows):
            at = [(table.fractions[c], table.cells[row, c]) for c in columns if (row, c) in table.cells]
            at.sort(key=lambda pair: pair[0])
            x, y, deviations = zip(*((100 * share, cell.mean, cell.sd or 0) for share, cell in at), strict=True)
            line = style(number) | {"linewidth": 1.2, "capsize": 2, "marker": "o", "markersize": 2.6}
            axes.errorbar(x, y, deviations, **line)
        axes.set_xscale("log")
        axes.set_xticks([100 * share for share in shares], [f"{100 * share:g}" for share in shares])
        axes.minorticks_off()
        axes.set_xlabel("labels, %")

    return Plot(table.title, svg(f"{table.title}: {table.metric} over shares of the labels", draw), keys(rows))


def keys(rows: Sequence[str]) -> list[tuple[str, str, str]]:
    numbered = [(row, n % len(LINES), n // len(LINES)) for n, row in enumerate(rows)]
    return [(row, f"var(--plot-{n + 1}, {LINES[n]})", CSS_STYLES[style]) for row, n, style in numbered]


def of_labels(content: SweepContent, table: Table) -> Iterator[Plot]:
    """ROC and reliability curves of a phase's test cases, a pair for each of the first labels and each column."""
    for column in table.columns:
        rows = [row for row in table.rows if (row, column) in table.cells][:MOST]
        by_row = {row: _cases([content.runs[i] for i in table.cells[row, column].runs]) for row in rows}
        names = next((names for of_runs in by_row.values() for _, _, names in of_runs), [])
        for i, label in enumerate(names[:LABELS]):
            of = {row: [(t[:, i], s[:, i]) for t, s, _ in of_runs] for row, of_runs in by_row.items() if of_runs}
            where = f"{table.title}, {column}: {label}"
            for kind, draw in (("ROC", roc), ("reliability", _reliability)):
                yield Plot(f"{where}, {kind}", svg(f"{where}: {kind}", partial(draw, of=of)), keys([*of]))


Scores = Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]


def _cases(runs: Sequence[SweepRun]) -> list[tuple[np.ndarray, np.ndarray, list[str]]]:
    """Targets and probabilities [N, L] and the names of labels of each run that has such cases."""
    arrays = []
    for run in runs:
        path = run.output / "cases" / "test.parquet"
        cases = read_cases(path, LabelCase) if path.is_file() else []
        arrays += [label_arrays(cases)[:3]] if cases else []
    return arrays


def roc(axes: Axes, of: Scores) -> None:
    """The mean sensitivity of a row's runs at each false positive rate."""
    grid = np.linspace(0, 1, 101)
    for number, runs in enumerate(of.values()):
        curves = []
        for targets, scores in runs:
            known = ~np.isnan(targets)
            if len(np.unique(targets[known])) == 2:
                false, true, _ = roc_curve(targets[known], scores[known])
                curves.append(np.interp(grid, false, true))
        if curves:
            axes.plot(grid, np.mean(curves, axis=0), **style(number))
    axes.plot([0, 1], [0, 1], color=LEVEL, linewidth=0.8, linestyle="--")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("sensitivity", color=LABEL)


def scatter(axes: Axes, true: np.ndarray, predicted: np.ndarray) -> None:
    """A point for each case whose number is known; on the dashed line both are the same."""
    known = ~np.isnan(true)
    both = np.concatenate((true[known], predicted[known], [] if known.any() else [0.0, 1.0]))
    axes.plot([both.min(), both.max()], [both.min(), both.max()], color=LEVEL, linewidth=0.8, linestyle="--")
    axes.scatter(true[known], predicted[known], s=7, color=LINES[0], alpha=0.7, linewidths=0)
    axes.set_xlabel("true")
    axes.set_ylabel("predicted", color=LABEL)


def _reliability(axes: Axes, of: Scores) -> None:
    """The share of positives among cases of about the same probability, of all runs of a row together."""
    edges = np.linspace(0, 1, BINS + 1)
    for number, runs in enumerate(of.values()):
        targets, scores = (np.concatenate([run[part] for run in runs]) for part in (0, 1))
        known = ~np.isnan(targets)
        bins = np.clip(np.digitize(scores[known], edges) - 1, 0, BINS - 1)
        filled = [b for b in range(BINS) if (bins == b).any()]
        x = [float(scores[known][bins == b].mean()) for b in filled]
        y = [float(targets[known][bins == b].mean()) for b in filled]
        axes.plot(x, y, marker="o", markersize=2.6, **style(number))
    axes.plot([0, 1], [0, 1], color=LEVEL, linewidth=0.8, linestyle="--")
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("share of positives", color=LABEL)


def style(number: int) -> dict[str, Any]:
    return {"color": LINES[number % len(LINES)], "linestyle": STYLES[number // len(LINES)], "linewidth": 1.3}


def pictures(content: SweepContent) -> list[Picture]:
    """Restored images of each pretraining phase's first run, after its last stage; pictures of localizations."""
    chosen: list[tuple[str, Path]] = []
    for phase in dict.fromkeys(run.phase for run in content.runs.values()):
        run = next(run for run in content.runs.values() if run.phase == phase)
        found = sorted((run.output / "pictures").glob("*.png"))
        files = [path for path in found if not path.name.startswith(".") and is_inside(path, run.output)]
        if run.command == "pretrain" and files:
            last = max(files, key=lambda path: (path.stat().st_mtime_ns, path.name))
            chosen.append((f"{run.id}, stage {last.stem}: clean, distorted, restored", last))
        elif run.command == "localize":
            chosen += [(f"{run.id}: {path.stem}", path) for path in files[:4]]
    left, embedded = PICTURES, []
    for title, path in chosen:
        left -= path.stat().st_size
        embedded.append(Picture(title, data_url("png", path.read_bytes()) if left > 0 else ""))
    return embedded
