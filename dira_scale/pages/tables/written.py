"""Tables as Markdown, CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Sequence

from dira_scale.pages.tables.cells import Cell, Table

# What LaTeX takes for something else, or does not have in the encoding that it begins with.
LATEX = {character: rf"\{character}" for character in "&%$#_{}"}
LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"±": r"$\pm$", "–": "--", "<": "$<$", ">": "$>$", "≥": r"$\geq$", "×": r"$\times$"}


def markdown(name: str, tables: Sequence[Table]) -> str:
    """A page of GitHub tables."""
    lines = [f"# {name}", ""]
    for table in tables:
        lines += [f"## {table.title}", "", f"{table.metric}. {table.claims()}", ""]
        head, *body = _cells(table)
        lines += [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)] + [""]
        lines += [line for note in table.notes for line in (note, "")]
    return "\n".join(lines)


def as_csv(tables: Sequence[Table]) -> str:
    """A row for each cell, with all digits."""
    text = io.StringIO()
    names = ["table", "metric", "row", "column", "mean", "sd", "n", "low", "high"]
    names += ["twin_n", "difference", "p", "p_holm", "published", "published_sd", "runs"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for table in tables:
        for row in table.rows:
            for column in table.columns:
                cell, published = table.cells.get((row, column)), table.published.get((row, column))
                if cell is None and published is None:
                    continue
                ours = [cell.mean, cell.sd, cell.n, *(cell.interval or (None, None))] if cell else [None] * 5
                twin = cell.twin if cell else None
                against = [twin.n, twin.difference, twin.p, twin.p_holm] if twin else [None] * 4
                paper = [published.mean, published.std] if published else [None] * 2
                runs = " ".join(cell.runs) if cell else ""
                writer.writerow([table.title, table.metric, row, column, *ours, *against, *paper, runs])
    return text.getvalue()


def latex(tables: Sequence[Table]) -> str:
    """A ``tabular`` for each table, with booktabs's rules."""
    parts = []
    for table in tables:
        head, *body = _cells(table)
        lines = [
            rf"% {table.title}: {table.metric}. {table.claims()}",
            rf"\begin{{tabular}}{{l{'c' * (len(head) - 1)}}}",
        ]
        lines += [r"\toprule", _line(head), r"\midrule", *map(_line, body), r"\bottomrule", r"\end{tabular}", ""]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def _cells(table: Table) -> list[list[str]]:
    """The header first."""
    published = bool(table.published)
    head = [
        table.metric.partition(",")[0],
        *(c for column in table.columns for c in ([f"{column}, paper"] if published else []) + [column]),
    ]
    body = []
    for row in table.rows:
        line = [row]
        for column in table.columns:
            if published:
                line.append(figure.text() if (figure := table.published.get((row, column))) else "–")
            line.append(_text(table.cells.get((row, column))))
        body.append(line)
    return [head, *body]


def _text(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    against = f"; {cell.about_twin()}" if cell.about_twin() else ""
    verdict = f", {cell.verdict()}" if cell.verdict() else ""
    return f"{cell.text()} (n {cell.n}{against}{verdict})"


def _line(cells: Sequence[str]) -> str:
    return (
        " & ".join(re.sub("|".join(map(re.escape, LATEX)), lambda found: LATEX[found[0]], cell) for cell in cells)
        + r" \\"
    )
