"""The page of a sweep: one self-contained HTML file, and its tables as Markdown, CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from dira_scale.base.errors import UserError, printable, without_commands
from dira_scale.base.storage.tables import harmless
from dira_scale.base.storage.text import without_tags
from dira_scale.dataset.metrics.statistics.significance import holm
from dira_scale.judge.pages.tables import figures
from dira_scale.judge.pages.tables.cells import ENOUGH, LEVEL, Cell, Table
from dira_scale.judge.pages.tables.papers import CITATIONS, PaperTable
from dira_scale.judge.pages.tables.read import SweepContent
from dira_scale.judge.pages.template import template

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
    return without_commands(without_tags("\n".join(lines)))


def as_csv(tables: Sequence[Table]) -> str:
    """A row for each cell, with all digits."""
    text = io.StringIO()
    names = ["table", "metric", "row", "column", "mean", "sd", "n", "low", "high"]
    names += ["twin_n", "difference", "p", "p_holm", "published", "published_sd", "runs"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for table in tables:
        for row, column in product(table.rows, table.columns):
            cell, published = table.cells.get((row, column)), table.published.get((row, column))
            ours = [cell.mean, cell.sd, cell.n, *(cell.interval or (None, None))] if cell else [None] * 5
            twin = cell.twin if cell else None
            against = [twin.n, twin.difference, twin.p, twin.p_holm] if twin else [None] * 4
            paper = [published.mean, published.std] if published else [None] * 2
            runs = " ".join(cell.runs) if cell else ""
            if cell or published:
                writer.writerow(harmless([table.title, table.metric, row, column, *ours, *against, *paper, runs]))
    return text.getvalue()


def latex(tables: Sequence[Table]) -> str:
    """A ``tabular`` for each table, with booktabs's rules."""
    parts = []
    for table in tables:
        head, *body = _cells(table)
        lines = [printable(f"% {table.title}: {table.metric}. {table.claims()}")]
        lines += [rf"\begin{{tabular}}{{l{'c' * (len(head) - 1)}}}", r"\toprule", _line(head), r"\midrule"]
        parts += [*lines, *map(_line, body), r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(parts)


def _cells(table: Table) -> list[list[str]]:
    """The header first."""
    published = bool(table.published)
    columns = [name for each in table.columns for name in ([f"{each}, paper", each] if published else [each])]
    head, body = [table.metric.partition(",")[0], *columns], list[list[str]]()
    for row in table.rows:
        line = [row]
        for column in table.columns:
            if published:
                line.append(figure.text() if (figure := table.published.get((row, column))) else "–")
            if cell := table.cells.get((row, column)):
                against = f"; {cell.about_twin()}" if cell.about_twin() else ""
                verdict = f", {cell.verdict()}" if cell.verdict() else ""
                line.append(f"{cell.text()} (n {cell.n}{against}{verdict})")
            else:
                line.append("–")
        body.append(line)
    return [head, *body]


def _line(cells: Sequence[str]) -> str:
    signs = "|".join(map(re.escape, LATEX))
    return " & ".join(re.sub(signs, lambda sign: LATEX[sign[0]], printable(cell)) for cell in cells) + r" \\"


PAPER_NAMES = {"AUROC": "AUC", "accuracy": "Accuracy"}  # our names of metrics, where papers have others
Cells = Mapping[tuple[str, str], Cell]


def beside(paper: PaperTable, tables: Mapping[str, Sequence[Table]]) -> Table:
    """The paper's tasks, rows and shares of the labels, with its figures and ours; ours alone where it has none, or has
    another metric. p is corrected for all tests of this table.

    Args:
        tables: of the sweep, by phase.

    Raises:
        UserError: two of our cells have one cell of the paper's table.
    """
    cells, published, fractions, metrics, notes = dict[tuple[str, str], Cell](), {}, {}, dict[str, str](), list[str]()
    rows, baselines = dict.fromkeys(paper.rows.values()), dict[str, None]()
    for phase, task in paper.tasks.items():
        for table in tables.get(phase, [])[:1]:  # the task's metric is the first; of localization the mean over labels
            ours, published_metric = re.split("[ ,]", table.metric.removeprefix("pooled "))[0], paper.metric(task)
            metrics[task] = PAPER_NAMES.get(ours, ours)
            if metrics[task] != published_metric:
                notes.append(
                    f"{task}: the paper has {published_metric}, which is not computed here; ours is {metrics[task]}."
                )
            for column in table.columns:
                heading = f"{task}, {column}"
                fractions[heading] = table.fractions.get(column, 1.0)
                for row in (row for row in table.rows if (row, column) in table.cells):
                    name = _named(row, paper)
                    rows[name] = None
                    if (name, heading) in cells:
                        raise UserError(
                            f"tables: {paper.paper}, {paper.table}: two results for {name}, {heading}: name one phase "
                            "a task, and one phase or value of init a row"
                        )
                    cells[name, heading] = table.cells[row, column]
                    baselines |= {name: None} if row in table.baselines else {}
                for name in rows:
                    figure = paper.figure(task, name, fractions[heading], column)
                    if figure and metrics[task] == published_metric:
                        published[name, heading] = figure
    columns = [*fractions]
    kept = [name for name in rows if any((name, heading) in {**cells, **published} for heading in columns)]
    note = (
        f"Published: {CITATIONS[paper.paper]}, {paper.table}. Other data, other seeds: read differences between rows."
    )
    return Table(
        f"{paper.paper}, {paper.table}", f"Published and ours, %: {_listed(metrics)}", kept, columns, _corrected(cells),
        [*baselines], fractions, published, [note, *notes],
    )  # fmt: skip


def _listed(metrics: Mapping[str, str]) -> str:
    """``AUC``, or ``AUC of CheXpert and ChestX-ray14, Dice of NIH Montgomery``."""
    kinds = dict.fromkeys(metrics.values())
    return ", ".join(
        kind if len(kinds) == 1 else f"{kind} of {' and '.join(task for task, its in metrics.items() if its == kind)}"
        for kind in kinds
    )


def _corrected(cells: Cells) -> Cells:
    """With Holm's correction over all their tests: they come from phases that were corrected one by one."""
    twins = [(heading, cell, cell.twin) for heading, cell in cells.items() if cell.twin]
    adjusted = holm([twin.p for _, _, twin in twins])
    changed = {
        heading: replace(cell, twin=replace(twin, p_holm=float(p)))
        for (heading, cell, twin), p in zip(twins, adjusted, strict=True)
    }
    return {**cells, **changed}


def _named(row: str, paper: PaperTable) -> str:
    """Name a row's start, a phase or a value of ``init``, as the paper does. The rest stays, but a probe's level."""
    start, _, rest = row.partition(", ")
    name = paper.rows.get(start) or paper.rows.get(start.partition("/")[0])
    return ", ".join([name, *([rest] if rest and not rest.startswith("level ") else [])]) if name else row


def render(content: SweepContent, papers: Sequence[PaperTable] = ()) -> dict[str, str]:
    """Text by suffix. ``papers``: tables that stand beside ours, first on the page."""
    own = [table for tables in content.tables.values() for table in tables]
    placed = [beside(paper, content.tables) for paper in papers]
    tables = [*(table for table in placed if table.cells), *own]
    with_cases = {run.phase for run in content.runs.values() if (run.output / "cases").is_dir()}
    tested = [tables[0] for phase, tables in content.tables.items() if tables and phase in with_cases]
    sets = dict.fromkeys(cell.runs for table in tables for cell in table.cells.values() if cell.runs)
    html = template(Path(__file__).with_name("sweep.html.j2")).render(
        content=content,
        tables=tables,
        sources={runs: number for number, runs in enumerate(sets, 1)},
        plots=[plot for table in own if (plot := figures.of_fractions(table))],
        curves=[plot for table in tested for plot in figures.of_labels(content, table)],
        pictures=figures.pictures(content),
        enough=ENOUGH,
        level=LEVEL,
        commits=sorted({run.commit[:12] for run in content.runs.values() if run.commit}),
    )
    return {".html": html, ".md": markdown(content.name, tables), ".csv": as_csv(tables), ".tex": latex(tables)}
