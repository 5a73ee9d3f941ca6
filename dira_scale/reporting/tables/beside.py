"""A sweep's cells in the places that they have in a paper's table."""

from collections.abc import Mapping, Sequence

from dira_scale.reporting.tables.cells import Table
from dira_scale.reporting.tables.papers import CITATIONS, PaperTable


def beside(paper: PaperTable, tables: Mapping[str, Sequence[Table]]) -> Table:
    """The paper's tasks, rows and shares of the labels, with its figures and ours; ours alone where it has none.

    Args:
        tables: of the sweep, by phase.
    """
    cells, published, columns, fractions, rows = {}, {}, [], {}, dict.fromkeys(paper.rows.values())
    baselines: list[str] = []
    for phase, task in paper.tasks.items():
        for table in tables.get(phase, [])[:1]:  # the first metric is the task's
            for column in table.columns:
                place = f"{task}, {column}"
                columns.append(place)
                fractions[place] = table.fractions.get(column, 1.0)
                for row in table.rows:
                    start, comma, rest = row.partition(", ")
                    theirs = paper.rows.get(row) or paper.rows.get(start.partition("/")[0])
                    name = f"{theirs}{comma}{rest}" if theirs and theirs != paper.rows.get(row) else theirs or row
                    rows[name] = None
                    baselines += [name] if row in table.baselines else []
                    if (row, column) in table.cells:
                        cells[name, place] = table.cells[row, column]
    for name in rows:
        for place in columns:
            task = place.rpartition(", ")[0]
            if (name, place) not in published and (figure := paper.figure(task, name, fractions[place])):
                published[name, place] = figure
    kept = [name for name in rows if any((name, place) in {**cells, **published} for place in columns)]
    note = (
        f"Published: {CITATIONS[paper.paper]}, {paper.table}. Other data, other seeds: read differences between rows."
    )
    return Table(
        f"{paper.paper}, {paper.table}", "Published and ours, %", kept, columns, cells, [*dict.fromkeys(baselines)],
        fractions, published, [note],
    )  # fmt: skip
