"""The probe's figures: mean, spread and n, as ``probe.json`` has them, and as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.table import Table

from dira_scale.metrics.figure import MEAN

AUC, R2, DICE = "auc", "r2", "dice"  # the metric of labels that are yes or no, of numbers, and of masks
Row = tuple[str, str, str, int, str, float, float]  # the first fields of Probed


@dataclass(frozen=True)
class Score:
    """For one encoder, probe and draw: area under the ROC curve, of numbers R2, of masks Dice, [L] on the test part,
    NaN where the drawn labels have only one value; the chosen C [L] (linear) or learning rate [L] (sgd); the number of
    fits that did not converge; for each of ``task.classes`` the share of its test images, of those classes, whose class
    has the highest score; of numbers the mean absolute error [L], in the label's unit, and Pearson's r [L]."""

    value: np.ndarray
    c: np.ndarray | None = None
    unfinished: int = 0
    accuracy: Mapping[str, float] = field(default_factory=dict)
    rate: np.ndarray | None = None
    mae: np.ndarray | None = None
    pearson: np.ndarray | None = None


@dataclass(frozen=True)
class Features:
    """The source of a row of the table: features of encoders (or raw pixels) at one level."""

    encoder: str
    kind: str  # run | init | random | pixels
    layer: str
    width: int  # number of features
    members: list[dict[str, Any]]


@dataclass(frozen=True)
class Probed:
    """The ``value`` of a ``metric``, ``AUC``, ``R2`` or ``DICE``, in percent. ``sd`` (ddof 1) is over encoders if
    there are several, else over draws.

    ``values`` [encoders][draws]; ``images``: mean number of labelled images; ``unfinished``: number of fits in which
    L-BFGS did not converge; ``c`` [encoders][draws]: chosen on the validation part, as is the learning ``rate``.
    Means over encoders and draws: ``accuracy`` of a label of classes, in percent; of numbers ``mae``, in the label's
    unit, and ``pearson``, from -1 to 1. ``accuracies`` [encoders][draws]; None if one is unknown.
    """

    encoder: str
    kind: str
    layer: str
    width: int
    probe: str
    fraction: float
    images: float
    label: str
    value: float
    sd: float | None
    sd_over: str | None
    encoders: int
    draws: int
    values: list[list[float]]
    c: list[list[float]] | None = None
    unfinished: int = 0
    accuracy: float | None = None
    accuracies: list[list[float]] | None = None
    rate: list[list[float]] | None = None
    mae: float | None = None
    pearson: float | None = None
    metric: str = AUC

    def text(self) -> str:
        """``71.3 ± 1.2``, in percent."""
        spread = "" if self.sd is None else f" ± {self.sd:.1f}"
        return "–" if np.isnan(self.value) else f"{self.value:.1f}{spread}"

    def lines(self) -> dict[str, str]:
        """Return the rows that a table of labels shows of this figure, by their names."""
        if self.metric == R2:
            others = {"MAE": _plain(self.mae, ".4g"), "Pearson r": _plain(self.pearson, ".2f")}
            return {f"{self.label}: {name}": text for name, text in ({"R2": self.text()} | others).items()}
        right = {f"{self.label}: accuracy": _plain(self.accuracy, ".1f")} if self.accuracy is not None else {}
        return {self.label: self.text()} | right


def _plain(value: float | None, form: str) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:{form}}"


def figures(
    of: Features,
    scores: list[dict[tuple[str, float], list[Score]]],
    labels: Sequence[str],
    images: dict[float, float],
    classes: Mapping[str, Sequence[int]] = MappingProxyType({}),
    metric: str = AUC,
) -> list[Probed]:
    """A figure for each probe, fraction and label, and, but for numbers, for the mean over labels.

    ``scores``: one dict per encoder.

    Of a label of ``classes`` (their places in ``labels``) there are figures for the mean over its classes, which counts
    as one label in the mean over labels, and for each class.

    A draw whose labelled images have only one value of a label does not count for that label, for any encoder.
    """
    results = []
    for probe, fraction in scores[0]:
        members = [member[probe, fraction] for member in scores]
        values = 100 * np.array([[score.value for score in draws] for draws in members])  # [encoders, draws, L]
        row = (of.encoder, of.kind, of.layer, of.width, probe, fraction, images[fraction])
        if metric != R2:
            results += [replace(mean, metric=metric) for mean in _means(row, values, members, classes)]
        for i, label in enumerate(labels):
            c, rate, mae, pearson = (
                _known([[getattr(score, name) for score in draws] for draws in members], i)
                for name in ("c", "rate", "mae", "pearson")
            )
            figure = replace(_figure(row, label, values[..., i]), c=c, rate=rate, metric=metric)
            results.append(replace(figure, mae=_over_all(mae), pearson=_over_all(pearson)))
    return results


def _means(
    row: Row, values: np.ndarray, members: list[list[Score]], classes: Mapping[str, Sequence[int]]
) -> list[Probed]:
    """Over all labels, and over the classes of each label that has classes. ``values`` [encoders, draws, L]."""
    each = {label: _mean(values[..., list(columns)]) for label, columns in classes.items()}
    of_classes = {i for columns in classes.values() for i in columns}
    alone = [values[..., i] for i in range(values.shape[-1]) if i not in of_classes]
    mean = _figure(row, MEAN, _mean(np.stack([*alone, *each.values()], axis=-1)))
    results = [replace(mean, unfinished=sum(score.unfinished for draws in members for score in draws))]
    for label, over_classes in each.items():
        right = 100 * np.array([[score.accuracy[label] for score in draws] for draws in members])
        each_right = None if np.isnan(right).any() else right.tolist()
        figure = _figure(row, label, over_classes)
        results.append(replace(figure, accuracy=float(right.mean()), accuracies=each_right))
    return results


def _known(values: Sequence[Sequence[np.ndarray | None]], label: int) -> list[list[float]] | None:
    """[encoders][draws] of a label, for the draws that have a figure; None of a probe that has none at all."""
    known = [[v[label] for v in draws if v is not None and not np.isnan(v[label])] for draws in values]
    return None if values[0][0] is None else [[float(value) for value in draws] for draws in known]


def _over_all(values: list[list[float]] | None) -> float | None:
    """Over encoders and draws; NaN where there are none."""
    if values is None:
        return None
    each = [value for draws in values for value in draws]
    return float(np.mean(each)) if each else float("nan")


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis, of what is known there."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(-1)
    return np.where(known.any(-1), total / np.maximum(known.sum(-1), 1), np.nan)


def _figure(row: Row, label: str, values: np.ndarray) -> Probed:
    counts = ~np.isnan(values[0])  # draws: the same patients for every encoder
    values = values[:, counts]
    encoders, draws = values.shape
    each = values.mean(1) if encoders > 1 else values[0]
    mean = float(values.mean()) if draws else float("nan")
    several = draws > 0 and len(each) > 1
    sd, over = (float(each.std(ddof=1)), "encoders" if encoders > 1 else "draws") if several else (None, None)
    return Probed(*row, label, mean, sd, over, encoders, draws, values.tolist())


def as_json(results: Sequence[Probed]) -> list[dict[str, Any]]:
    """Rows of ``probe.json``: the value under its metric's name, with NaN (nothing to score) as null."""
    foreign: dict[str, tuple[str, ...]] = {AUC: ("metric", "mae", "pearson"), R2: ("metric", "accuracy", "accuracies")}
    foreign[DICE] = (*foreign[AUC], *foreign[R2])
    return [
        {
            figure.metric if key == "value" else key: None if isinstance(v, float) and np.isnan(v) else v
            for key, v in asdict(figure).items()
            if key not in foreign[figure.metric]
        }
        for figure in results
    ]


def from_json(rows: Sequence[Mapping[str, Any]]) -> list[Probed]:
    """Rebuild the figures from the rows of `as_json`."""
    results = []
    for row in rows:
        metric = next(metric for metric in (R2, DICE, AUC) if metric in row)
        value = float("nan") if row[metric] is None else row[metric]
        others = {key: v for key, v in row.items() if key != metric}
        results.append(Probed(**others, value=value, metric=metric))
    return results


Cells = list[list[str]]  # the header first


class _Layout:
    """The order of encoders, labels and fractions in tables.

    Attributes:
        rows: encoder and level of each source. ``shares``: texts by fraction, the largest first.
        flags, numbers: labels, with those of classes and each class of them. ``cells``: by row, probe, fraction, label.
    """

    def __init__(self, results: Sequence[Probed]) -> None:
        self.rows = list(dict.fromkeys((f.encoder, f.layer) for f in results))
        shares = {f.fraction: f"{100 * f.fraction:g} % ({f.images:.0f})" for f in results}
        self.shares = dict(sorted(shares.items(), reverse=True))
        self.flags = list(dict.fromkeys(f.label for f in results if f.metric != R2 and f.label != MEAN))
        self.numbers = list(dict.fromkeys(f.label for f in results if f.metric == R2))
        self.cells = {((f.encoder, f.layer), f.probe, f.fraction, f.label): f for f in results}


def overviews(results: Sequence[Probed]) -> list[tuple[str, Cells]]:
    """Titles and cells, header first: the mean over labels by fraction, and each number."""
    of = _Layout(results)
    columns = [(probe, fraction) for probe in dict.fromkeys(f.probe for f in results) for fraction in of.shares]
    several = [f.label for f in results if f.accuracy is not None]  # labels of classes
    alone = [label for label in of.flags if not any(label.startswith(f"{name}: ") for name in several)]
    title = "Dice" if any(f.metric == DICE for f in results) else "AUC"
    mean = {MEAN: f"mean {title} of {f'{len(alone)} labels' if len(alone) > 1 else alone[0]}"} if alone else {}
    head = ["encoder", "level", "n", *(f"{probe} @ {of.shares[fraction]}" for probe, fraction in columns)]
    made = []
    for label, title in (mean | {name: f"R2 of {name}" for name in of.numbers}).items():
        body = []
        for row in of.rows:
            line = [of.cells[row, probe, fraction, label] for probe, fraction in columns]
            body.append([*row, str(line[0].encoders), *(figure.text() for figure in line)])
        made.append((title, [head, *body]))
    return made


def by_label(results: Sequence[Probed], probe: str) -> list[tuple[str, Cells]]:
    """For each fraction a table with all labels, unless a single one is the mean, and one with all numbers."""
    of, made = _Layout(results), []
    columns = ["label", *(f"{encoder} {layer}".strip() for encoder, layer in of.rows)]
    for fraction, share in of.shares.items():
        for labels, what in ((of.flags if len(of.flags) > 1 else [], ""), (of.numbers, ": numbers")):
            body: Cells = []
            for label in labels:
                each = [of.cells[row, probe, fraction, label].lines() for row in of.rows]
                body += [[name, *(lines[name] for lines in each)] for name in each[0]]
            made += [(f"{probe} @ {share}{what}", [columns, *body])] if body else []
    return made


def rich_table(title: str, cells: Cells) -> Table:
    """For the terminal: long names are wrapped, never cut."""
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(cells[0]):
        table.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
    for line in cells[1:]:
        table.add_row(*line)
    return table


def markdown(title: str, cells: Cells) -> str:
    """A GitHub table with a title."""
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join([f"**{title}**", "", lines[0], "|" + "---|" * len(cells[0]), *lines[1:], ""])
