"""The parts of a page from ``results.json`` and the cases beside it: tables of figures, curves, pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from etils.epy import lazy_imports

from dira_scale.base.storage.owned import is_inside
from dira_scale.dataset.metrics.cases import CASES, LabelCase, NumberCase, label_arrays, number_arrays, read_cases
from dira_scale.dataset.metrics.figure import Figure
from dira_scale.dataset.pixels.outlines import COLOURS
from dira_scale.judge.pages.template import data_url

with lazy_imports():
    from dira_scale.judge.pages.tables import figures

MOST = 12  # curves of a plot
CONVENTIONS = {"both_empty=one": "a case with neither a true nor a predicted pixel counts as the best value"}


@dataclass(frozen=True)
class ResultTable:
    """The figures of a split. ``rows``: (label or class, a value and its interval for each of ``metrics``);
    ``remarks``: what else decides a metric's values."""

    split: str
    metrics: list[str]
    rows: list[tuple[str, list[tuple[str, str]]]]
    remarks: list[str]


@dataclass(frozen=True)
class ShownResults:
    """The arguments of the template ``results.html.j2``. ``content``: of ``results.json``; empty: nothing is shown;
    ``plots`` and ``pictures`` (data URLs): of the test split's cases; ``keys``: names of classes with their colours."""

    content: Mapping[str, Any]
    tables: Sequence[ResultTable]
    plots: Sequence["figures.Plot"]
    pictures: Sequence[str]
    keys: str

    @classmethod
    def of(cls, folder: Path, content: Mapping[str, Any], outputs: Sequence[str]) -> "ShownResults":
        """Show the ``folder`` that has the ``content``; ``outputs``: the network's."""
        names = [name for name in outputs if name != "background"]
        keys = ", ".join(f"{name} {colour}" for name, colour in zip(names, [*COLOURS] * len(names), strict=False))
        pictures = [path for path in sorted((folder / CASES).glob("test-*.jpg")) if is_inside(path, folder)]
        urls = [data_url("jpeg", path.read_bytes()) for path in pictures]
        return cls(content, tables(content), plots(folder, split_of(content)), urls, keys)

    @property
    def split(self) -> str:
        return split_of(self.content)

    @property
    def warnings(self) -> list[str]:
        return never_answered(self.content)


def never_answered(content: Mapping[str, Any]) -> list[str]:
    """A line for the classes that are never answered on the test split."""
    names = content.get("never_answered", {}).get("test", [])
    return [f"never answered on the {split_of(content)} split: {', '.join(names)}"] if names else []


def split_of(content: Mapping[str, Any]) -> str:
    """Return what the test split is called in the dataset."""
    return str(content.get("splits", {}).get("test", "test"))


def tables(content: Mapping[str, Any]) -> list[ResultTable]:
    """The tables, the test split's first. Of a single class the mean over classes is left out."""
    return [_table(content["splits"][split], figures) for split, figures in sorted(content.get("figures", {}).items())]


def _table(split: str, figures: Sequence[Figure]) -> ResultTable:
    names = list(dict.fromkeys(figure.name for figure in figures))
    columns: dict[str, list[tuple[str, str]]] = {}
    remarks: dict[str, list[str]] = {}
    for metric in dict.fromkeys(figure.metric for figure in figures):
        of_metric = {figure.name: figure for figure in figures if figure.metric == metric}
        cells = [_cell(of_metric[name]) if name in of_metric else ("", "") for name in names]
        if columns.get(metric.partition(" in cases ")[0]) == cells:
            continue  # all cases have the class
        columns[metric] = cells
        conventions = {figure.convention for figure in of_metric.values()}
        if len(conventions) == 1 and (convention := conventions.pop()):  # not a threshold for each label
            remarks.setdefault(CONVENTIONS.get(convention, convention), []).append(metric)
    rows = list(zip(names, map(list, zip(*columns.values(), strict=True)), strict=True))
    single = len({tuple(cells) for _, cells in rows}) == 1
    notes = [f"{', '.join(metrics)}: {convention}" for convention, metrics in remarks.items()]
    return ResultTable(split, [*columns], rows[: 1 if single else None], notes)


def _cell(figure: Figure) -> tuple[str, str]:
    return figure.text(), f"{figure.interval[0]:.3f} to {figure.interval[1]:.3f}" if figure.interval else ""


def plots(folder: Path, split: str = "test") -> list["figures.Plot"]:
    """The plots of the test split's cases; ``split``: what it is called in the dataset."""
    path = folder / CASES / "test.parquet"
    cases = read_cases(path) if is_inside(path, folder) and path.is_file() else []
    draw = PLOTS.get(cases[0].plot) if cases else None
    return draw(cases, split) if draw else []


def _roc(cases: Sequence[LabelCase], split: str) -> list["figures.Plot"]:
    """The ROC curve of each label, of those with most positives, that has both answers."""
    targets, scores, names, _ = label_arrays(cases)
    drawable = [i for i in range(len(names)) if {0, 1} <= {*targets[:, i].tolist()}]
    chosen = sorted(drawable, key=lambda i: -(targets[:, i] == 1).sum())[:MOST]
    of = {names[i]: [(targets[:, i], scores[:, i])] for i in sorted(chosen)}
    if not of:
        return []
    title = f"ROC curves, {split} split"
    return [figures.Plot(title, figures.svg(title, partial(figures.roc, of=of)), figures.keys([*of]))]


def _scatter(cases: Sequence[NumberCase], split: str) -> list["figures.Plot"]:
    """Plot predictions over true values, once for each number."""
    targets, predictions, names, _ = number_arrays(cases)
    return [
        figures.Plot(
            f"{name}: predicted over true, {split} split",
            figures.svg(f"{name}, predicted over true", partial(figures.scatter, true=true, predicted=predicted)), [],
        )
        for name, true, predicted in [*zip(names, targets.T, predictions.T, strict=True)][:MOST]
    ]  # fmt: skip


# By ``plot`` of a case.
PLOTS: Mapping[str, Callable[[Any, str], list["figures.Plot"]]] = {"roc": _roc, "scatter": _scatter}
