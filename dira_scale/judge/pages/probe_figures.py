"""The probe's figures, as ``probe.json`` has them, and as tables.

A figure is a spread of ``dataset.metrics.statistics.spread``: its runs are the encoders of a row of the table, which
differ in their seeds alone, and its seeds are draws of labelled patients.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from dira_scale.base.errors import UserError
from dira_scale.dataset.metrics.classification import ACCURACY
from dira_scale.dataset.metrics.figure import MEAN, Figure, Key, plain
from dira_scale.dataset.metrics.regression import MAE, PEARSON, R2
from dira_scale.dataset.metrics.statistics.spread import Result, Spread, spreads
from dira_scale.train.runs.files import read_json

FILE, FORMAT = "probe.json", 2
DETAILS = {MAE: ".4g", PEARSON: ".2f", ACCURACY: ".1f"}  # below a label's main figure: their forms, without a spread
CellTable = list[list[str]]  # the header first


@dataclass(frozen=True)
class Features:
    """The source of a row of the table: features of encoders (or raw pixels) at one level."""

    encoder: str
    kind: str  # run | init | random | pixels
    layer: str
    width: int  # number of features
    members: list[dict[str, Any]]  # what each encoder is from

    @property
    def title(self) -> str:
        """Encoder and level of its pyramid; of pixels, which have none, their name."""
        return f"{self.encoder}, level {self.layer}" if self.layer else self.encoder


@dataclass(frozen=True)
class Fit:
    """A probe of one encoder's features, fitted to one draw of labelled patients. ``figures``: of the test part; NaN
    where the drawn labels have only one value; ``chosen``: by label the C (linear) or learning rate (sgd) that the
    validation part chose; ``unfinished``: the number of regressions that did not converge."""

    figures: Mapping[Key, Figure]
    chosen: Mapping[str, float] = field(default_factory=dict)
    unfinished: int = 0


@dataclass(frozen=True)
class ProbeFigure:
    """The ``metric`` of a ``label``, of a ``probe`` of the ``source`` at a ``fraction`` of the labelled patients, in
    the mean with so many ``images``. ``values``: [encoders][draws], of the draws that have one; ``chosen``: likewise,
    what the validation part chose; None of a probe without such a choice."""

    source: Features
    probe: str
    fraction: float
    images: float
    metric: str
    label: str
    spread: Spread
    values: list[list[float]]
    chosen: list[list[float]] | None = None

    def text(self) -> str:
        """``71.3 ± 1.2``: shares in percent, with the deviation over encoders if there are several, else over draws."""
        spread, form = self.spread, DETAILS.get(self.metric, ".1f")
        deviation = spread.run_sd if spread.n > 1 else spread.seed_sd
        if np.isnan(spread.mean):
            return "–"
        ends = "" if deviation is None or self.metric in DETAILS else f" ± {spread.scale * deviation:{form}}"
        return f"{spread.scale * spread.mean:{form}}{ends}"


def figures(
    source: Features, fits: Sequence[Mapping[tuple[str, float], Sequence[Fit]]], images: Mapping[float, float]
) -> list[ProbeFigure]:
    """Return a figure for each probe, fraction, metric and label. ``fits``: of each encoder of the ``source``, one for
    each draw; ``images``: the mean number of labelled images of each fraction."""
    over_encoders = []
    for probe, fraction in fits[0]:
        members = [of_encoder[probe, fraction] for of_encoder in fits]
        for metric, label in members[0][0].figures:
            drawn = [[fit.figures[metric, label] for fit in draws] for draws in members]
            (spread,) = spreads([
                Result(source.title, str(encoder), draw, figure)
                for encoder, of_draws in enumerate(drawn) for draw, figure in enumerate(of_draws)
            ])  # fmt: skip
            values = [[figure.value for figure in draws if not np.isnan(figure.value)] for draws in drawn]
            chosen = [[fit.chosen[label] for fit in draws if label in fit.chosen] for draws in members]
            about = source, probe, fraction, images[fraction], metric, label
            over_encoders.append(ProbeFigure(*about, spread, values, chosen if any(chosen) else None))
    return over_encoders


def as_json(results: Sequence[ProbeFigure]) -> list[dict[str, Any]]:
    """Return the rows ``figures`` of ``probe.json``."""
    rows = []
    for figure in results:
        source, row = figure.source, vars(figure) | {"spread": asdict(figure.spread)}
        del row["source"]
        rows.append(plain({"encoder": source.encoder, "kind": source.kind, "layer": source.layer} | row))
    return rows


def read_probe(folder: Path) -> dict[str, Any]:
    """Return the content of ``probe.json`` in ``folder``, the rows of ``figures`` as ProbeFigures.

    Raises UserError for a file of another format. Of a damaged one: LookupError, TypeError, ValueError, AttributeError.
    """
    content = read_json(folder / FILE, dict[str, Any]())
    if (version := content.get("format", 1)) != FORMAT:
        raise UserError(f"{folder / FILE} is of format {version}, this dira_scale reads {FORMAT}: run the probe again")
    sources = {(of["encoder"], of["layer"]): Features(**of) for of in content["compared"]}
    read = []
    for row in content["figures"]:
        about = {key: value for key, value in row.items() if key not in ("encoder", "kind", "layer", "spread")}
        source, spread = sources[row["encoder"], row["layer"]], Spread.of_json(row["spread"])
        read.append(ProbeFigure(source=source, spread=spread, **about))
    return content | {"figures": read}


class _Layout:
    """The order of ``sources`` (by encoder and level), ``fractions`` (texts, the largest first) and labels (``flags``,
    ``numbers``) in tables, and their ``cells``, in which a label's main figure is the first."""

    def __init__(self, results: Sequence[ProbeFigure]) -> None:
        self.sources = {(f.source.encoder, f.source.layer): f.source for f in results}
        texts = {f.fraction: f"{100 * f.fraction:g} % ({f.images:.0f})" for f in results}
        self.fractions = dict(sorted(texts.items(), reverse=True))
        self.numbers = list(dict.fromkeys(f.label for f in results if f.metric == R2))
        self.flags = [label for label in dict.fromkeys(f.label for f in results) if label not in (MEAN, *self.numbers)]
        self.cells: dict[tuple[tuple[str, str], str, float, str], list[ProbeFigure]] = {}
        for f in results:
            self.cells.setdefault(((f.source.encoder, f.source.layer), f.probe, f.fraction, f.label), []).append(f)


def overviews(results: Sequence[ProbeFigure]) -> list[tuple[str, CellTable]]:
    """Titles and cells: the mean over labels by fraction, and each number."""
    layout = _Layout(results)
    columns = [(probe, fraction) for probe in dict.fromkeys(f.probe for f in results) for fraction in layout.fractions]
    of_classes = dict.fromkeys(f.label for f in results if f.metric == ACCURACY)
    alone = [label for label in layout.flags if not any(label.startswith(f"{name}: ") for name in of_classes)]
    metric = next((f.metric for f in results if f.label == MEAN), "")
    titles = {MEAN: f"mean {metric} of {f'{len(alone)} labels' if len(alone) > 1 else alone[0]}"} if alone else {}
    head = ["encoder", "level", "n", *(f"{probe} @ {layout.fractions[fraction]}" for probe, fraction in columns)]
    tables = []
    for label, title in (titles | {name: f"R2 of {name}" for name in layout.numbers}).items():
        body = []
        for row, source in layout.sources.items():
            texts = [layout.cells[row, probe, fraction, label][0].text() for probe, fraction in columns]
            body.append([*row, str(len(source.members)), *texts])
        tables.append((title, [head, *body]))
    return tables


def by_label(results: Sequence[ProbeFigure], probe: str) -> list[tuple[str, CellTable]]:
    """For each fraction a table with all labels, unless a single one is the mean, and one with all numbers."""
    layout, tables = _Layout(results), []
    columns = ["label", *(f"{encoder} {layer}".strip() for encoder, layer in layout.sources)]
    flags = layout.flags if len(layout.flags) > 1 else []
    for fraction, share in layout.fractions.items():
        for labels, heading in ((flags, ""), (layout.numbers, ": numbers")):
            body: CellTable = []
            for label in labels:
                cells = [layout.cells[row, probe, fraction, label] for row in layout.sources]
                for of_metric in zip(*cells, strict=True):
                    metric = of_metric[0].metric
                    name = f"{label}: {metric}" if metric in (R2, *DETAILS) else label
                    body.append([name, *(figure.text() for figure in of_metric)])
            tables += [(f"{probe} @ {share}{heading}", [columns, *body])] if body else []
    return tables


def rich_table(title: str, cells: CellTable) -> Table:
    """For the terminal: long names are wrapped, never cut."""
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(cells[0]):
        table.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
    for line in cells[1:]:
        table.add_row(*line)
    return table


def markdown(title: str, cells: CellTable) -> str:
    """A GitHub table with a title."""
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join([f"**{title}**", "", lines[0], "|" + "---|" * len(cells[0]), *lines[1:], ""])
