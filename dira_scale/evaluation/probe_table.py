"""The probe's figures: mean, spread and n, for the terminal, ``probe.md`` and ``probe.json``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.table import Table

MEAN = "mean"  # the name of the mean over labels


@dataclass(frozen=True)
class Score:
    """For one encoder, probe and draw: area under the ROC curve [L] on the test part, NaN where the drawn labels have
    only one class; the chosen C [L] (linear) or learning rate [L] (sgd); the number of fits that did not converge; for
    each of ``task.classes`` the share of its test images, of those classes, whose class has the highest score."""

    auc: np.ndarray
    c: np.ndarray | None = None
    unfinished: int = 0
    accuracy: Mapping[str, float] = field(default_factory=dict)
    rate: np.ndarray | None = None


@dataclass(frozen=True)
class Features:
    """The source of a row of the table: features of encoders (or raw pixels) at one level."""

    encoder: str
    kind: str  # run | init | random | pixels
    layer: str
    width: int  # number of features
    members: list[dict[str, Any]]


@dataclass(frozen=True)
class Figure:
    """Area under the ROC curve in percent. ``sd`` (ddof 1) is over encoders if there are several, else over draws.

    ``values`` [encoders][draws]; ``images``: mean number of labelled images; ``unfinished``: number of fits in which
    L-BFGS did not converge; ``c`` [encoders][draws]: chosen on the validation part, as is the
    learning ``rate``; ``accuracy``: of a label of classes, in percent, over encoders and draws.
    """

    encoder: str
    kind: str
    layer: str
    width: int
    probe: str
    fraction: float
    images: float
    label: str
    auc: float
    sd: float | None
    sd_over: str | None
    encoders: int
    draws: int
    values: list[list[float]]
    c: list[list[float]] | None = None
    unfinished: int = 0
    accuracy: float | None = None
    rate: list[list[float]] | None = None

    def text(self) -> str:
        """``71.3 ± 1.2``, in percent."""
        spread = "" if self.sd is None else f" ± {self.sd:.1f}"
        return "–" if np.isnan(self.auc) else f"{self.auc:.1f}{spread}"

    def right(self) -> str:
        """``63.2``, the accuracy in percent."""
        return "–" if self.accuracy is None or np.isnan(self.accuracy) else f"{self.accuracy:.1f}"


def figures(
    of: Features,
    scores: list[dict[tuple[str, float], list[Score]]],
    labels: Sequence[str],
    images: dict[float, float],
    classes: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> list[Figure]:
    """A figure for each probe, fraction and label, and for the mean over labels. ``scores``: one dict per encoder.

    Of a label of ``classes`` (their places in ``labels``) there are figures for the mean over its classes, which counts
    as one label in the mean over labels, and for each class.

    A draw whose labelled images have only one class of a label does not count for that label, for any encoder.
    """
    results = []
    for probe, fraction in scores[0]:
        members = [member[probe, fraction] for member in scores]
        auc = 100 * np.array([[score.auc for score in draws] for draws in members])  # [encoders, draws, L]
        each = {label: _mean(auc[..., list(columns)]) for label, columns in classes.items()}
        alone = [auc[..., i] for i in range(len(labels)) if not any(i in columns for columns in classes.values())]
        mean = _mean(np.stack([*alone, *each.values()], axis=-1))
        row = (of.encoder, of.kind, of.layer, of.width, probe, fraction, images[fraction])
        unfinished = sum(score.unfinished for draws in members for score in draws)
        results.append(replace(_figure(row, MEAN, mean), unfinished=unfinished))
        for label, over_classes in each.items():
            right = 100 * float(np.mean([score.accuracy[label] for draws in members for score in draws]))
            results.append(replace(_figure(row, label, over_classes), accuracy=right))
        for i, label in enumerate(labels):
            figure = _figure(row, label, auc[..., i])
            c, rate = ([[getattr(score, name) for score in draws] for draws in members] for name in ("c", "rate"))
            results.append(replace(figure, c=_chosen(c, i), rate=_chosen(rate, i)))
    return results


def _chosen(values: Sequence[Sequence[np.ndarray | None]], label: int) -> list[list[float]] | None:
    """[encoders][draws] of a label, for the draws that have a figure; None of a probe that chooses nothing."""
    known = [[v[label] for v in draws if v is not None and not np.isnan(v[label])] for draws in values]
    return None if values[0][0] is None else [[float(value) for value in draws] for draws in known]


def _mean(auc: np.ndarray) -> np.ndarray:
    """Over the last axis, of what is known there."""
    known = ~np.isnan(auc)
    total = np.where(known, auc, 0).sum(-1)
    return np.where(known.any(-1), total / np.maximum(known.sum(-1), 1), np.nan)


def _figure(row: tuple[str, str, str, int, str, float, float], label: str, values: np.ndarray) -> Figure:
    counts = ~np.isnan(values[0])  # draws: the same patients for every encoder
    values = values[:, counts]
    encoders, draws = values.shape
    each = values.mean(1) if encoders > 1 else values[0]
    mean = float(values.mean()) if draws else float("nan")
    several = draws > 0 and len(each) > 1
    sd, over = (float(each.std(ddof=1)), "encoders" if encoders > 1 else "draws") if several else (None, None)
    return Figure(*row, label, mean, sd, over, encoders, draws, values.tolist())


def tables(results: Sequence[Figure]) -> list[tuple[str, list[list[str]]]]:
    """Titles and cells, header first: the mean over labels by fraction, then a table per fraction with all labels."""
    probes, labels = (list(dict.fromkeys(getattr(f, key) for f in results)) for key in ("probe", "label"))
    several = [figure for figure in results if figure.accuracy is not None]  # labels of classes
    fractions = sorted({figure.fraction for figure in results}, reverse=True)
    cells = {(f.encoder, f.layer, f.probe, f.fraction, f.label): f for f in results}
    rows = list(dict.fromkeys((f.encoder, f.layer) for f in results))
    shares = {f.fraction: f"{100 * f.fraction:g} % ({f.images:.0f})" for f in results}
    head = ["encoder", "level", "n", *(f"{probe} @ {shares[fraction]}" for probe in probes for fraction in fractions)]
    body = []
    for row in rows:
        line = [cells[*row, probe, fraction, MEAN] for probe in probes for fraction in fractions]
        body.append([*row, str(line[0].encoders), *(figure.text() for figure in line)])
    alone = [label for label in labels[1:] if not any(label.startswith(f"{of.label}: ") for of in several)]
    made = [("mean AUC of " + (f"{len(alone)} labels" if len(alone) > 1 else alone[0]), [head, *body])]
    if len(labels) == 2:  # the mean and the single label are the same
        return made
    for probe in probes:
        for fraction in fractions:
            columns = ["label", *(f"{encoder} {layer}".strip() for encoder, layer in rows)]
            lines = []
            for label in labels[1:]:
                line = [cells[*row, probe, fraction, label] for row in rows]
                lines.append([label, *(figure.text() for figure in line)])
                if line[0].accuracy is not None:
                    lines.append([f"{label}: accuracy", *(figure.right() for figure in line)])
            made.append((f"{probe} @ {shares[fraction]}", [columns, *lines]))
    return made


def rich_table(title: str, cells: list[list[str]]) -> Table:
    """For the terminal: long names are wrapped, never cut."""
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(cells[0]):
        table.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
    for line in cells[1:]:
        table.add_row(*line)
    return table


def markdown(title: str, cells: list[list[str]]) -> str:
    """A GitHub table with a title."""
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join([f"**{title}**", "", lines[0], "|" + "---|" * len(cells[0]), *lines[1:], ""])


def as_json(results: Sequence[Figure]) -> list[dict[str, Any]]:
    """Rows of ``probe.json``, with NaN (nothing to score) as null."""
    return [
        {key: None if isinstance(v, float) and np.isnan(v) else v for key, v in asdict(figure).items()}
        for figure in results
    ]
