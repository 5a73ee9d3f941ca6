"""The probe's figures and others as tables, for the terminal and as Markdown."""

from collections.abc import Sequence

from rich.table import Table

from dira_scale.evaluation.probe_figures import AUC, R2, Probed
from dira_scale.metrics.figure import MEAN

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
        self.flags = list(dict.fromkeys(f.label for f in results if f.metric == AUC and f.label != MEAN))
        self.numbers = list(dict.fromkeys(f.label for f in results if f.metric == R2))
        self.cells = {((f.encoder, f.layer), f.probe, f.fraction, f.label): f for f in results}


def overviews(results: Sequence[Probed]) -> list[tuple[str, Cells]]:
    """Titles and cells, header first: the mean over labels by fraction, and each number."""
    of = _Layout(results)
    columns = [(probe, fraction) for probe in dict.fromkeys(f.probe for f in results) for fraction in of.shares]
    several = [f.label for f in results if f.accuracy is not None]  # labels of classes
    alone = [label for label in of.flags if not any(label.startswith(f"{name}: ") for name in several)]
    mean = {MEAN: f"mean AUC of {f'{len(alone)} labels' if len(alone) > 1 else alone[0]}"} if alone else {}
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
