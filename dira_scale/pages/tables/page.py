"""The page of a sweep: one self-contained HTML file, and its tables as Markdown, CSV and LaTeX."""

from collections.abc import Sequence
from pathlib import Path

from dira_scale import __version__
from dira_scale.pages.tables import figures
from dira_scale.pages.tables.beside import beside
from dira_scale.pages.tables.cells import ENOUGH, LEVEL, Table
from dira_scale.pages.tables.papers import PaperTable
from dira_scale.pages.tables.read import SweepContent
from dira_scale.pages.tables.written import as_csv, latex, markdown
from dira_scale.pages.template import template

SUFFIXES = (".html", ".md", ".csv", ".tex")


def render(content: SweepContent, papers: Sequence[PaperTable] = ()) -> dict[str, str]:
    """Text by suffix. ``papers``: tables that stand beside ours, first on the page."""
    own = [table for tables in content.tables.values() for table in tables]
    placed = [beside(paper, content.tables) for paper in papers]
    tables = [*(table for table in placed if table.cells), *own]
    plots = [plot for table in own if (plot := figures.of_fractions(table))]
    curves = [plot for phase in content.tables for plot in figures.of_labels(content, _fine_tuned(content, phase))]
    html = template(Path(__file__).with_name("sweep.html.j2")).render(
        content=content,
        tables=tables,
        sources=_sources(tables),
        plots=plots,
        curves=curves,
        pictures=figures.pictures(content),
        enough=ENOUGH,
        level=LEVEL,
        commits=sorted({run.commit[:12] for run in content.runs.values() if run.commit}),
        version=__version__,
    )
    return {".html": html, ".md": markdown(content.name, tables), ".csv": as_csv(tables), ".tex": latex(tables)}


def _fine_tuned(content: SweepContent, phase: str) -> list[Table]:
    """The phase's first table, if its runs have test cases."""
    runs = [run for run in content.runs.values() if run.phase == phase]
    return content.tables[phase][:1] if any((run.output / "cases").is_dir() for run in runs) else []


def _sources(tables: Sequence[Table]) -> dict[tuple[str, ...], int]:
    """A number for each set of runs that a cell is from, to which the cell's figure leads."""
    sets = dict.fromkeys(cell.runs for table in tables for cell in table.cells.values() if cell.runs)
    return {runs: number for number, runs in enumerate(sets, 1)}
