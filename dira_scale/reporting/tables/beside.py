"""A sweep's cells in the places that they have in a paper's table."""

from collections.abc import Mapping, Sequence

from dira_scale.reporting.tables.cells import Table
from dira_scale.reporting.tables.papers import CITATIONS, PaperTable


def beside(paper: PaperTable, tables: Mapping[str, Sequence[Table]]) -> Table:
    """The paper's tasks, rows and shares of the labels, with its figures and ours; ours alone where it has none.

    Args:
        tables: of the sweep, by phase.
    """
    cells, published, fractions = {}, {}, {}
    rows, baselines = dict.fromkeys(paper.rows.values()), dict[str, None]()
    for phase, task in paper.tasks.items():
        for table in tables.get(phase, [])[:1]:  # the task's metric is the first; of localization the mean over labels
            for column in table.columns:
                place = f"{task}, {column}"
                fractions[place] = table.fractions.get(column, 1.0)
                for row in (row for row in table.rows if (row, column) in table.cells):
                    name = _named(row, paper)
                    rows[name] = None
                    cells[name, place] = table.cells[row, column]
                    baselines |= {name: None} if row in table.baselines else {}
                for name in rows:
                    if figure := paper.figure(task, name, fractions[place], column):
                        published[name, place] = figure
    columns = [*fractions]
    kept = [name for name in rows if any((name, place) in {**cells, **published} for place in columns)]
    note = (
        f"Published: {CITATIONS[paper.paper]}, {paper.table}. Other data, other seeds: read differences between rows."
    )
    return Table(
        f"{paper.paper}, {paper.table}", "Published and ours, %", kept, columns, cells, [*baselines],
        fractions, published, [note],
    )  # fmt: skip


def _named(row: str, paper: PaperTable) -> str:
    """As the paper calls what the row starts from: a phase, or a value of ``init``. What stands behind it stays."""
    start, comma, rest = row.partition(", ")
    theirs = paper.rows.get(start) or paper.rows.get(start.partition("/")[0])
    return f"{theirs}{comma}{rest}" if theirs else row
